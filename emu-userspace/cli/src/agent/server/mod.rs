//! HTTP: metrics, health, readiness.
mod connections;
mod refusals;
mod token;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{HUNG, metrics, shared::Shared};
use connections::Limits;
pub(super) use refusals::{Refusal, Refusals};
pub use token::Token;

/// Most connections at a time: a handful of scrapers, probes and people.
pub(super) const MOST_CONNECTIONS: usize = 64;
/// Most answers of `/metrics` that are being sent: with `--per-vnode` and 65,536 vnodes each
/// takes some 100 MB.
const MOST_SCRAPES: usize = 4;
/// Time in which a client must send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time in which a client must take its answer: 100 MB in a minute are 13 Mbit/s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What the routes share.
struct Site {
    shared: Arc<Shared>,
    per_vnode: bool,
    token: Option<Token>,
    scrapes: Arc<Semaphore>,
}

/// Serves HTTP on a listener until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    per_vnode: bool,
    token: Option<Token>,
    most_connections: usize,
) {
    let refusals = Arc::clone(&shared.refusals);
    let limits = Limits {
        connections: most_connections,
        request: REQUEST_TIMEOUT,
        connection: CONNECTION_TIMEOUT,
    };
    let router = router(shared, per_vnode, token);
    connections::serve(listener, router, limits, refusals).await;
}

/// The routes of the HTTP server.
fn router(shared: Arc<Shared>, per_vnode: bool, token: Option<Token>) -> Router {
    let site = Site {
        shared,
        per_vnode,
        token,
        scrapes: Arc::new(Semaphore::new(MOST_SCRAPES)),
    };
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(scrape))
        .with_state(Arc::new(site))
}

impl Site {
    /// Whether a client may read more than whether the agent works.
    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_none_or(|token| token.is_in(headers))
    }
}

async fn health(State(site): State<Arc<Site>>) -> Response {
    let age = site.shared.age();
    if age < HUNG {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let text = format!("the reconciler has hung for {} s\n", age.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

/// Without the token the answer is the status code alone, for probes.
async fn readiness(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let readiness = site.shared.readiness();
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if site.is_allowed(&headers) {
        (code, Json(readiness)).into_response()
    } else {
        code.into_response()
    }
}

async fn scrape(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    if !site.is_allowed(&headers) {
        site.shared.refusals.count(Refusal::Unauthorized);
        let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, ask).into_response();
    }
    let Ok(permit) = Arc::clone(&site.scrapes).try_acquire_owned() else {
        site.shared.refusals.count(Refusal::ManyScrapes);
        let later = [(header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, later).into_response();
    };
    match metrics::text(&site.shared, site.per_vnode) {
        Ok(text) => {
            let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (content_type, body(text, permit)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "scrape");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

/// A body that keeps its permit until it is sent or given up.
fn body(text: String, permit: OwnedSemaphorePermit) -> Body {
    struct Owned {
        text: String,
        _permit: OwnedSemaphorePermit,
    }
    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            self.text.as_bytes()
        }
    }
    Body::from(Bytes::from_owner(Owned {
        text,
        _permit: permit,
    }))
}
