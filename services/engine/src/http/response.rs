//! Answers, in dockerd's form.

use bytes::Bytes;
use http::{HeaderValue, Response as HttpResponse, StatusCode, header};
use serde::Serialize;

use super::body::Body;
use crate::error::Error;

/// An answer.
pub(crate) type Response = HttpResponse<Body>;

/// A status without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    with_body(status, Body::empty())
}

/// `value` as JSON with a newline after it, as dockerd writes it.
pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response {
    let mut bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => return from_error(&Error::internal(format!("cannot answer: {error}"))),
    };
    bytes.push(b'\n');
    let mut response = with_body(status, Body::full(bytes));
    set(&mut response, header::CONTENT_TYPE, "application/json");
    response
}

/// `value` as JSON with status 200.
pub(crate) fn ok<T: Serialize + ?Sized>(value: &T) -> Response {
    json(StatusCode::OK, value)
}

/// A streamed or whole body of `content_type` with status 200.
pub(crate) fn body(content_type: &'static str, body: Body) -> Response {
    let mut response = with_body(StatusCode::OK, body);
    set(&mut response, header::CONTENT_TYPE, content_type);
    response
}

/// Plain text with status 200.
pub(crate) fn text(text: &'static str) -> Response {
    body(
        "text/plain; charset=utf-8",
        Body::full(Bytes::from_static(text.as_bytes())),
    )
}

/// An error as `{"message": …}` with its status.
pub(crate) fn from_error(error: &Error) -> Response {
    let status = error.status();
    if status == StatusCode::NOT_MODIFIED {
        return empty(status);
    }
    json(
        status,
        &serde_json::json!({ "message": error.client_message() }),
    )
}

/// Sets a header to a constant.
pub(crate) fn set(response: &mut Response, name: header::HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

fn with_body(status: StatusCode, body: Body) -> Response {
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    response
}
