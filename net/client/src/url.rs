//! `celeriant://host:port[,host:port][?…]`: where a store's nodes are, and how to speak to them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use celeriant_schema::{Credential, CredentialError};

use crate::{Error, Tls};

const SCHEME: &str = "celeriant://";
const DEFAULT_PORT: u16 = 7440;

/// Addresses that one URL may name.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// Longest address, in bytes: a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 261;

/// The address of a store: all of its nodes, and how to speak to them.
///
/// ```text
/// celeriant://a:7440,b:7440                                             as the options say
/// celeriant://a,b?ca=ca.crt&cert=client.crt&key=client.key              over TLS
/// celeriant://a,b?tls=on                                                over TLS, or not at all
/// celeriant://a,b?ca=ca.crt&api_key=FILE                                with the key in FILE
/// celeriant://127.0.0.1:7440?tls=off                                    in the clear
/// ```
/// An API key, or a token of one, is no part of a URL, which is printed and logged. In names of
/// files, `%` and two digits stand for a byte; `%`, `&` and `#` must be written so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    addresses: Vec<String>,
    tls: Option<bool>,
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    api_key: Option<PathBuf>,
}

impl Url {
    /// `host:port` of each node, in the order they are to be tried.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(crate) fn into_addresses(self) -> Vec<String> {
        self.addresses
    }

    /// The same way to one node only.
    #[must_use]
    pub fn of(&self, address: &str) -> Self {
        Self { addresses: vec![address.to_owned()], ..self.clone() }
    }

    /// What to connect with, if `otherwise` is what there is besides this URL. `None`: without TLS.
    ///
    /// # Errors
    /// `Error::Url` when TLS is asked for and there is no authority; `Error::Tls` when a file
    /// cannot be used.
    pub fn tls(&self, otherwise: Option<&Tls>) -> Result<Option<Tls>, Error> {
        if self.tls == Some(false) {
            return Ok(None);
        }
        let Some(authority) = &self.authority else {
            return match (self.tls, otherwise) {
                (Some(true), None) => Err(bad("tls=on needs an authority: ca=FILE, or options")),
                _ => Ok(otherwise.cloned()),
            };
        };
        let identity = self.certificate.clone().zip(self.key.clone());
        Tls::from_files(authority, identity).map(Some)
    }

    /// The API key, or token of one, in the file that this URL names, if it names one.
    ///
    /// # Errors
    /// `Error::Url` when the file cannot be read or holds something else.
    pub fn api_key(&self) -> Result<Option<Credential>, Error> {
        let Some(path) = &self.api_key else { return Ok(None) };
        let wrong = |why: String| bad(format!("api_key={}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        text.trim().parse().map(Some).map_err(|error: CredentialError| wrong(error.to_string()))
    }

    /// A file's name as it is written in a URL.
    pub fn escape(path: &Path) -> String {
        escaped(&path.to_string_lossy())
    }

    fn take_query(&mut self, query: &str) -> Result<(), Error> {
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let file = match name {
                "tls" => {
                    self.tls = match value {
                        "on" => Some(true),
                        "off" => Some(false),
                        _ => return Err(bad(format!("{part:?}: tls is on or off"))),
                    };
                    continue;
                }
                "ca" => &mut self.authority,
                "cert" => &mut self.certificate,
                "key" => &mut self.key,
                "api_key" => &mut self.api_key,
                _ => {
                    let known = "tls, ca, cert, key and api_key are";
                    return Err(bad(format!("{name:?} is not known; {known}")));
                }
            };
            let value = unescaped(value).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| bad(format!("{part:?} names no file")))?;
            *file = Some(value.into());
        }
        let files = [&self.authority, &self.certificate, &self.key];
        if self.tls == Some(false) && files.iter().any(|file| file.is_some()) {
            return Err(bad("tls=off needs no certificates"));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(bad("cert and key belong together"));
        }
        if self.certificate.is_some() && self.authority.is_none() {
            return Err(bad("cert and key need an authority, too: ca=FILE"));
        }
        Ok(())
    }
}

fn bad(reason: impl Into<String>) -> Error {
    Error::Url { reason: reason.into() }
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| bad(format!("{text:?} does not start with {SCHEME}")))?;
        let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        let mut addresses = Vec::new();
        for host in hosts.split(',') {
            let address = address(host).map_err(bad)?;
            // One that is named twice counts once.
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.len() > ADDRESSES_MAX {
            return Err(bad(format!("more than {ADDRESSES_MAX} addresses")));
        }
        let mut url = Self {
            addresses,
            tls: None,
            authority: None,
            certificate: None,
            key: None,
            api_key: None,
        };
        url.take_query(query)?;
        Ok(url)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.addresses.join(","))?;
        let tls = self.tls.map(|on| format!("tls={}", if on { "on" } else { "off" }));
        let files = [
            ("ca", &self.authority),
            ("cert", &self.certificate),
            ("key", &self.key),
            ("api_key", &self.api_key),
        ];
        let files = files.into_iter().filter_map(|(name, path)| {
            path.as_ref().map(|path| format!("{name}={}", Self::escape(path)))
        });
        let query: Vec<String> = tls.into_iter().chain(files).collect();
        match query.is_empty() {
            true => Ok(()),
            false => write!(f, "?{}", query.join("&")),
        }
    }
}

/// What means something else in a URL, or to a shell, stands as `%` and two digits.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// `None`: `%` without two digits after it, or not UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                (u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, after)
            }
            byte => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Reads one address; the port may be left out.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn address(host: &str) -> Result<String, String> {
    if host.len() > ADDRESS_BYTES_MAX {
        return Err(format!("an address of {} bytes", host.len()));
    }
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => (format!("[{name}]"), port.strip_prefix(':')),
        None => match host.rsplit_once(':') {
            Some((name, _)) if name.contains(':') => {
                return Err(format!("{host:?}: write IPv6 addresses in brackets"));
            }
            Some((name, port)) => (name.to_owned(), Some(port)),
            None => (host.to_owned(), None),
        },
    };
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/@#".contains(c);
    if name.is_empty() || name == "[]" || name.contains(strange) {
        return Err(format!("{host:?} is not host:port"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{port:?} is not a port"))?,
    };
    Ok(format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Url, Error> {
        text.parse()
    }

    #[test]
    fn addresses_come_in_order_and_with_the_default_port() {
        let addresses = |text| parse(text).expect("valid").into_addresses();
        let three = addresses("celeriant://a.internal:1,[::1]:2,c?tls=off");
        assert_eq!(three, ["a.internal:1", "[::1]:2", "c:7440"]);
        assert_eq!(addresses("celeriant://localhost:7440/"), ["localhost:7440"]);
        assert_eq!(addresses("celeriant://a,b:1,a:7440"), ["a:7440", "b:1"]);
    }

    #[test]
    fn a_url_is_written_as_it_is_read() {
        for text in [
            "celeriant://a:1",
            "celeriant://a:1,[::1]:2?tls=on",
            "celeriant://a:1?tls=off",
            "celeriant://a:1?tls=on&ca=/x%20y/ca.crt&cert=c%26d.crt&key=k%25.key&api_key=/k",
        ] {
            assert_eq!(parse(text).expect("valid").to_string(), text);
        }
        let url = parse("celeriant://a:1,b:2?ca=/x%20y/ca.crt").expect("valid");
        assert_eq!(url.authority.as_deref(), Some(std::path::Path::new("/x y/ca.crt")));
        assert_eq!(url.of("b:2").to_string(), "celeriant://b:2?ca=/x%20y/ca.crt");
    }

    #[test]
    fn what_the_url_says_of_tls_comes_first() {
        let tls = |text: &str| parse(text).and_then(|url| url.tls(None).map(|tls| tls.is_some()));
        assert!(!tls("celeriant://a").expect("in the clear"));
        assert!(!tls("celeriant://a?tls=off").expect("in the clear"));
        assert!(matches!(tls("celeriant://a?tls=on"), Err(Error::Url { .. })));
        let missing = tls("celeriant://a?ca=/no/such/ca.crt").expect_err("missing").to_string();
        assert!(missing.contains("/no/such/ca.crt"), "{missing}");
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_a_reason() {
        for bad in [
            "localhost:7440",
            "http://localhost",
            "celeriant://",
            "celeriant://a,,b",
            "celeriant://a:0",
            "celeriant://a:70000",
            "celeriant://a:b",
            "celeriant://::1",
            "celeriant://a b",
            "celeriant://user@host",
            "celeriant://a?tls=maybe",
            "celeriant://a?tsl=on",
            "celeriant://a?tls=off&ca=ca.crt",
            "celeriant://a?ca=",
            "celeriant://a?ca=%",
            "celeriant://a?ca=%zz",
            "celeriant://a?ca=a&cert=b",
            "celeriant://a?cert=b&key=c",
            "celeriant://a,b,c,d,e,f,g,h,i",
            &format!("celeriant://{}", "a".repeat(300)),
        ] {
            assert!(matches!(parse(bad), Err(Error::Url { .. })), "{bad}");
        }
    }
}
