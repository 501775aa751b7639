//! A service that tracks its own workspaces and mounts their status API on its axum app.
//!
//! `cargo run -p workspace-engine-examples --example embed_tracker`, then
//! `curl 127.0.0.1:8082/api/v1/workspaces/acme/status`.

use workspace_status::{State, Tracker};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The three lines: a status that the service sets while it works on a workspace, and the router.
    let acme = Tracker::global().get_or_create("acme");
    acme.set_state(State::Ready, "loaded by the example");
    let app = axum::Router::new().merge(workspace_status_http::router(Tracker::global().clone()));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8082").await?;
    axum::serve(listener, app).await?;
    Ok(())
}
