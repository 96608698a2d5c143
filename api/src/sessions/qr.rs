//! `GET /sessions/{name}/qr`: the QR code that waits to be scanned, as an image or as text.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use qrcode::render::svg;
use qrcode::{Color, QrCode};
use sanasr_shared::link_code::LinkCode;
use sanasr_shared::time::Time;
use serde::Serialize;
use utoipa::ToSchema;

use super::{SessionPath, absent};
use crate::answer::{Data, Success};
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::reference::params::{OfUser, SessionName};
use crate::state::App;

/// Pixels of a PNG for each module of the code.
const SCALE: usize = 8;
/// Modules of white around the code, as ISO/IEC 18004 wants it.
const QUIET: usize = 4;

/// A QR code as text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QrText {
    /// The text to draw.
    qr_code: String,
    /// When it ends; then there is a new one.
    #[schema(value_type = String, format = DateTime)]
    qr_expires_at: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Png,
    Svg,
    Json,
}

/// Get the QR code to scan
///
/// As an image or as text, by the header `Accept`: `image/png` (the default), `image/svg+xml` or `application/json`. It renews
/// itself: ask again after `qr_expires_at`.
#[utoipa::path(
    get, path = "/api/v1/sessions/{name}/qr", tag = "Sessions", operation_id = "get_qr_code",
    params(SessionName, OfUser),
    responses(
        (status = 200, description = "The code that waits.", content(
            (Success<QrText> = "application/json"), (Vec<u8> = "image/png"), (String = "image/svg+xml"),
        )),
        (status = 406, description = "`Accept` allows none of the three forms."),
        (status = 409, description = "No code waits: the session is connected, or isn't asked to connect."),
    ),
)]
pub(crate) async fn qr(
    State(app): State<App>,
    SessionPath { user, name, .. }: SessionPath,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = wanted(&headers)
        .ok_or_else(|| Problem::not_acceptable("A QR code comes as image/png, image/svg+xml or application/json."))?;
    let session = app.store.session(user, &name).await?.ok_or_else(absent)?.opened(&app.vault);
    let (Some(LinkCode::Open(text)), Some(qr_expires_at)) = (session.qr_code, session.qr_expires_at) else {
        return Err(Problem::conflict(format!(
            "No QR code waits to be scanned: the session is {}. One comes some seconds after POST …/connect of a session \
             that isn't paired.",
            session.status.as_str()
        )));
    };
    if form == Form::Json {
        return Ok(Data::ok(QrText { qr_code: text, qr_expires_at }).into_response());
    }
    let code = QrCode::new(text.as_bytes()).map_err(|e| Problem::internal(format!("a QR code can't be drawn: {e}")))?;
    let (kind, image) = match form {
        Form::Svg => ("image/svg+xml", code.render::<svg::Color<'_>>().min_dimensions(256, 256).build().into_bytes()),
        Form::Png | Form::Json => ("image/png", png(&code).map_err(|e| Problem::internal(format!("no PNG: {e}")))?),
    };
    let mut response = Response::new(Body::from(image));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Black and white, one bit a pixel.
fn png(code: &QrCode) -> Result<Vec<u8>, png::EncodingError> {
    let modules = code.width();
    let side = (modules + 2 * QUIET) * SCALE;
    let colors = code.to_colors();
    let is_dark = |x: usize, y: usize| {
        let at = |n: usize| (n / SCALE).checked_sub(QUIET).filter(|n| *n < modules);
        matches!((at(x), at(y)), (Some(x), Some(y)) if colors[y * modules + x] == Color::Dark)
    };
    let row_bytes = side.div_ceil(8);
    let mut pixels = vec![0xff_u8; row_bytes * side];
    for y in 0..side {
        for x in (0..side).filter(|x| is_dark(*x, y)) {
            pixels[y * row_bytes + x / 8] &= !(0x80 >> (x % 8));
        }
    }
    let mut image = Vec::new();
    let side = u32::try_from(side).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut image, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(image)
}

/// The form that the client likes best (RFC 9110, 12.5.1); PNG if it doesn't care.
fn wanted(headers: &HeaderMap) -> Option<Form> {
    let mut accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if accepts.peek().is_none() {
        return Some(Form::Png);
    }
    let ranges: Vec<(String, f32)> = accepts.flat_map(|text| text.split(',')).map(range).collect();
    let liking = |form: Form| {
        let (group, kind) = match form {
            Form::Png => ("image/*", "image/png"),
            Form::Svg => ("image/*", "image/svg+xml"),
            Form::Json => ("application/*", "application/json"),
        };
        // The most specific range that matches decides.
        [kind, group, "*/*"]
            .into_iter()
            .find_map(|name| ranges.iter().find(|(range, _)| range == name))
            .map_or(0.0, |r| r.1)
    };
    let mut best = None;
    for form in [Form::Png, Form::Svg, Form::Json] {
        let liking = liking(form);
        if liking > best.map_or(0.0, |(_, most)| most) {
            best = Some((form, liking));
        }
    }
    best.map(|(form, _)| form)
}

/// A media range and its quality.
fn range(text: &str) -> (String, f32) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
    (name, quality.unwrap_or(0.0).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(text: &'static str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(text));
        wanted(&headers)
    }

    #[test]
    fn the_client_says_which_form_it_likes() {
        assert_eq!(wanted(&HeaderMap::new()), Some(Form::Png));
        for (text, form) in [
            ("*/*", Some(Form::Png)),
            ("image/*", Some(Form::Png)),
            ("image/svg+xml", Some(Form::Svg)),
            ("application/json, */*;q=0.1", Some(Form::Json)),
            ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", Some(Form::Png)),
            ("image/png;q=0.5, image/svg+xml;q=0.9", Some(Form::Svg)),
            ("image/png;q=0, */*", Some(Form::Svg)),
            ("text/html", None),
            ("", None),
            ("image/png;q=0", None),
            ("image/png;q=x", None),
        ] {
            assert_eq!(accepting(text), form, "{text}");
        }
    }

    #[test]
    fn a_png_holds_the_code() {
        let code = QrCode::new(b"2@simulated").expect("a code");
        let image = png(&code).expect("a PNG");
        let mut reader = png::Decoder::new(std::io::Cursor::new(image)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut pixels).expect("a picture");
        assert_eq!(info.width as usize, (code.width() + 2 * QUIET) * SCALE);
        let bit = |x: usize, y: usize| pixels[y * info.line_size + x / 8] >> (7 - x % 8) & 1;
        assert_eq!(bit(0, 0), 1, "white around it");
        for (n, color) in code.to_colors().into_iter().enumerate() {
            let (x, y) = (n % code.width(), n / code.width());
            let seen = bit((x + QUIET) * SCALE + 3, (y + QUIET) * SCALE + 3);
            assert_eq!(seen, u8::from(color == Color::Light), "module {x}, {y}");
        }
    }
}
