//! The `OpenAPI` document of the program; `UPDATE_GOLDEN=1` rewrites it.

use crate::support::Engine;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/openapi.json");

#[test]
fn the_openapi_document_is_as_agreed() {
    let engine = Engine::start(&[]);
    let document = engine.get("/openapi.json").json();
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return std::fs::write(GOLDEN, text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    assert!(
        golden == text,
        "UPDATE_GOLDEN=1 writes it again; it is now:\n{text}"
    );
    assert_eq!(engine.get("/docs/").status, 200);
}
