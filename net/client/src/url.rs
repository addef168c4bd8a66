//! `celeriant://host:port[,host:port]`: where the nodes of a store are.

use crate::Error;

const SCHEME: &str = "celeriant://";
const DEFAULT_PORT: u16 = 7440;

/// Addresses that one URL may name.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// Longest address, in bytes: a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 261;

/// Reads the addresses of a store, each as `host:port`, in the order they are to be tried; one that
/// is named twice counts once.
pub(crate) fn parse(url: &str) -> Result<Vec<String>, Error> {
    let bad = |reason: String| Error::Url { reason };
    let rest = url
        .strip_prefix(SCHEME)
        .ok_or_else(|| bad(format!("{url:?} does not start with {SCHEME}")))?;
    let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
    check_query(query)?;
    let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let address = address(host).map_err(bad)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.len() > ADDRESSES_MAX {
        return Err(bad(format!("more than {ADDRESSES_MAX} addresses")));
    }
    Ok(addresses)
}

fn check_query(query: &str) -> Result<(), Error> {
    for part in query.split('&').filter(|part| !part.is_empty()) {
        if part != "tls=off" {
            let reason = format!("{part:?} is not known; only tls=off is, for now");
            return Err(Error::Url { reason });
        }
    }
    Ok(())
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

    #[test]
    fn addresses_come_in_order_and_with_the_default_port() {
        let addresses = parse("celeriant://a.internal:1,[::1]:2,c?tls=off").expect("valid");
        assert_eq!(addresses, ["a.internal:1", "[::1]:2", "c:7440"]);
        assert_eq!(parse("celeriant://localhost:7440/").expect("valid"), ["localhost:7440"]);
        assert_eq!(parse("celeriant://a,b:1,a:7440").expect("valid"), ["a:7440", "b:1"]);
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
            "celeriant://a?tls=on",
            "celeriant://a,b,c,d,e,f,g,h,i",
            &format!("celeriant://{}", "a".repeat(300)),
        ] {
            assert!(matches!(parse(bad), Err(Error::Url { .. })), "{bad}");
        }
    }
}
