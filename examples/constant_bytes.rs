//! A bare axum handler that answers with a given number of constant bytes: the baseline with which
//! `bench/status.sh` compares the status route.
//!
//! `cargo run --release -p workspace-engine-examples --example constant_bytes -- ADDR:PORT BYTES`

use anyhow::Context;
use axum::Router;
use axum::http::header;
use axum::routing::get;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("ADDR:PORT is missing")?;
    let bytes: usize = arguments.next().context("BYTES is missing")?.parse()?;
    let body = axum::body::Bytes::from(vec![b'x'; bytes]);
    let handler = move || {
        let body = body.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], body) }
    };
    let app = Router::new().route("/api/v1/workspaces/{id}/status", get(handler));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
