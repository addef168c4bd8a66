//! The inspector: a page that shows what the gateway answers. Files made by hand, embedded.
//!
//! ```text
//! /              index.html     /inspector.css
//! /inspector.js  which view an address is ─▶ /inspector/….js, one module for each thing
//! ```
//! Nothing is fetched from elsewhere, nothing in the page is a script, and what comes from the
//! store is put in as text: a payload cannot become a part of the page. The policy in the answer's
//! head makes the browser hold the page to that.

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const PAGE: &str = include_str!("../../web/inspector/index.html");
const SCRIPT: &str = include_str!("../../web/inspector/inspector.js");
const STYLE: &str = include_str!("../../web/inspector/inspector.css");

/// What the script consists of: where each module is, and its text. Parts of the page, not
/// operations of the gateway: openapi.json does not list them.
pub(super) const MODULES: &[(&str, &str)] = &[
    ("/inspector/blake3.js", include_str!("../../web/inspector/blake3.js")),
    ("/inspector/browse.js", include_str!("../../web/inspector/browse.js")),
    ("/inspector/chain.js", include_str!("../../web/inspector/chain.js")),
    ("/inspector/cluster.js", include_str!("../../web/inspector/cluster.js")),
    ("/inspector/dom.js", include_str!("../../web/inspector/dom.js")),
    ("/inspector/event.js", include_str!("../../web/inspector/event.js")),
    ("/inspector/format.js", include_str!("../../web/inspector/format.js")),
    ("/inspector/gateway.js", include_str!("../../web/inspector/gateway.js")),
    ("/inspector/schemas.js", include_str!("../../web/inspector/schemas.js")),
    ("/inspector/status.js", include_str!("../../web/inspector/status.js")),
    ("/inspector/tail.js", include_str!("../../web/inspector/tail.js")),
    ("/inspector/timeline.js", include_str!("../../web/inspector/timeline.js")),
    ("/inspector/verify.js", include_str!("../../web/inspector/verify.js")),
];

pub(super) fn page() -> Response {
    file("text/html; charset=utf-8", PAGE)
}

pub(super) fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

/// One of [`MODULES`].
pub(super) fn module(text: &'static str) -> Response {
    file("text/javascript; charset=utf-8", text)
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
        let modules = || MODULES.iter().map(|(_, text)| *text);
        for text in [PAGE, SCRIPT, STYLE].into_iter().chain(modules()) {
            for elsewhere in ["http://", "https://", "//cdn", "@import", "url("] {
                assert!(!text.contains(elsewhere), "{elsewhere}");
            }
        }
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(modules().chain([SCRIPT]).all(|text| !text.contains(way)), "{way}");
        }
        assert!(!PAGE.contains("<style") && !PAGE.contains("style=") && !PAGE.contains("onclick"));
    }

    #[test]
    fn every_module_that_is_imported_is_served() {
        let sources = MODULES.iter().map(|(_, text)| *text).chain([SCRIPT]);
        let mut imports = 0;
        for line in sources.flat_map(str::lines) {
            let Some((_, from)) = line.split_once("from \"") else { continue };
            let name = from.trim_end_matches("\";").trim_start_matches("./");
            let path = match name.starts_with('/') {
                true => name.to_owned(),
                false => format!("/inspector/{name}"),
            };
            assert!(MODULES.iter().any(|(known, _)| *known == path), "{path}");
            imports += 1;
        }
        assert!(imports > MODULES.len(), "{imports}");
    }
}
