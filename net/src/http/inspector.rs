//! The inspector: a page that shows what the gateway answers. Three files, made by hand, embedded.
//!
//! Nothing is fetched from elsewhere, nothing in the page is a script, and what comes from the
//! store is put in as text: a payload cannot become a part of the page. The policy in the answer's
//! head makes the browser hold the page to that.

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("../../web/inspector/index.html");
const SCRIPT: &str = include_str!("../../web/inspector/inspector.js");
const STYLE: &str = include_str!("../../web/inspector/inspector.css");

pub(super) fn page() -> Response {
    file("text/html; charset=utf-8", PAGE)
}

pub(super) fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let head = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // It is of this very version of the program.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (head, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_makes_no_html_of_what_it_shows() {
        for text in [PAGE, SCRIPT, STYLE] {
            for elsewhere in ["http://", "https://", "//cdn", "@import", "url("] {
                assert!(!text.contains(elsewhere), "{elsewhere}");
            }
        }
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
        assert!(!PAGE.contains("<style") && !PAGE.contains("style=") && !PAGE.contains("onclick"));
    }
}
