//! HTTP: metrics, health, readiness.
use std::sync::Arc;

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{HUNG, metrics, shared::Shared};

/// The routes of the HTTP server.
pub(super) fn router(shared: Arc<Shared>, per_vnode: bool) -> Router {
    let (healthy, ready, scraped) = (Arc::clone(&shared), Arc::clone(&shared), shared);
    Router::new()
        .route("/healthz", get(move || async move { health(&healthy) }))
        .route("/readyz", get(move || async move { readiness(&ready) }))
        .route(
            "/metrics",
            get(move || async move { scrape(&scraped, per_vnode) }),
        )
}

fn health(shared: &Shared) -> Response {
    if shared.age() < HUNG {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let text = format!("the reconciler has hung for {} s\n", shared.age().as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

fn readiness(shared: &Shared) -> Response {
    let readiness = shared.readiness();
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness)).into_response()
}

fn scrape(shared: &Shared, per_vnode: bool) -> Response {
    match metrics::text(shared, per_vnode) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "scrape");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}
