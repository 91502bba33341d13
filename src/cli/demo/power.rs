//! The power switches of the stand-in Macs: `POST /NAME/sleep`, `/NAME/off`, `/NAME/wake`.
//!
//! A listener of its own, as a Mac that sleeps cannot be told to wake.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::mac::{Mac, Power};

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the switches for ever.
pub(super) async fn serve(listener: TcpListener, macs: Arc<[Arc<Mac>]>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let macs = Arc::clone(&macs);
        let service = service_fn(move |request| {
            let answer = answer(&macs, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn answer(macs: &[Arc<Mac>], request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let (name, word) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or_default();
    let mac = macs.iter().find(|mac| mac.name == name);
    let status = match (request.method(), mac, Power::of(word)) {
        (&Method::POST, Some(mac), Some(power)) => {
            mac.set(power);
            StatusCode::OK
        }
        (&Method::GET, ..) if path == "/" => StatusCode::OK,
        _ => StatusCode::NOT_FOUND,
    };
    let mut text = String::new();
    for mac in macs {
        let _ = writeln!(text, "{} is {}", mac.name, mac.power());
    }
    if status == StatusCode::NOT_FOUND {
        text += "there are POST /NAME/sleep, /NAME/off and /NAME/wake\n";
    }
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
