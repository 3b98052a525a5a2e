//! Connections of the HTTP server: their number, and the time of each, have limits.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::refusals::{Refusal, Refusals};

/// Pause after the kernel refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Largest request line with headers, in bytes; hyper's least.
const MOST_HEADER_BYTES: usize = 8_192;

/// What the clients may take.
#[derive(Debug, Clone, Copy)]
pub(in crate::agent) struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Time until the request is complete.
    pub request: Duration,
    /// Time of a whole connection, which ends with its first answer.
    pub connection: Duration,
}

/// A connection that may still be open.
struct Open {
    task: AbortHandle,
    has_request: Arc<AtomicBool>,
}

/// Serves connections until it is dropped.
///
/// One connection carries one request, so none is idle between requests. When all places are
/// taken, a new connection displaces the one that has waited longest for its request: a client
/// that sends its request at once is served however many slow ones there are.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    refusals: Arc<Refusals>,
) {
    let mut tasks = JoinSet::new();
    let mut open: Vec<Open> = Vec::new();
    loop {
        refusals.set_open(tasks.len());
        let accepted = tokio::select! {
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept");
                refusals.count(Refusal::NoDescriptor);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|other| !other.task.is_finished());
        if open.len() >= limits.connections {
            let waiting = open.iter().position(|o| !o.has_request.load(Relaxed));
            let Some(oldest) = waiting else {
                refusals.count(Refusal::Full);
                continue;
            };
            refusals.count(Refusal::Displaced);
            open.remove(oldest).task.abort();
        }
        // An aborted task has its descriptor until it has ended.
        while tasks.len() >= limits.connections && tasks.join_next().await.is_some() {}
        let has_request = Arc::new(AtomicBool::new(false));
        let task = tasks.spawn(attend(
            stream,
            TowerToHyperService::new(router.clone()),
            limits,
            Arc::clone(&has_request),
            Arc::clone(&refusals),
        ));
        open.push(Open { task, has_request });
    }
}

/// Serves one connection.
async fn attend(
    stream: TcpStream,
    router: TowerToHyperService<Router>,
    limits: Limits,
    has_request: Arc<AtomicBool>,
    refusals: Arc<Refusals>,
) {
    let service = service_fn(|request| {
        has_request.store(true, Relaxed);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .keep_alive(false)
        .max_buf_size(MOST_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.connection, connection).await {
        Err(_) => refusals.count(Refusal::SlowReader),
        Ok(Err(error)) if error.is_timeout() => refusals.count(Refusal::SlowRequest),
        Ok(Err(error)) => tracing::debug!(%error, "a client's connection"),
        Ok(Ok(())) => {}
    }
}

#[cfg(test)]
mod tests;
