//! `otlp`: traces to a collector.

use crate::account::OtlpSettings;
use crate::config::diagnostic::{Code, Context};
use crate::config::read::Fields;

const PORT: u16 = 4318; // OTLP over HTTP
const PATH: &str = "/v1/traces";
const SAMPLING: std::ops::RangeInclusive<u64> = 0..=100;

/// A setting that asks for what the binary cannot do is an error: an operator who waits for traces should not wait in vain.
pub(super) fn read(mut fields: Fields<'_>, cx: &mut Context<'_>) -> Option<OtlpSettings> {
    let endpoint = fields.get("endpoint").and_then(|node| node.parsed(endpoint, cx));
    let sampling = fields.whole("samplingPercent", SAMPLING, cx).and_then(|percent| u8::try_from(percent).ok());
    fields.finish(cx);
    let endpoint = endpoint?;
    if !cfg!(feature = "otlp") {
        cx.report(Code::NotSupported, endpoint.span, "this egret was built without traces")
            .help("build it with `--features otlp`, or leave `otlp` out");
    }
    Some(OtlpSettings { sampling_percent: sampling.unwrap_or(100), ..endpoint.value })
}

/// `http://HOST`, with a port and a path or without.
fn endpoint(text: &str) -> Result<OtlpSettings, &'static str> {
    const FORM: &str = "not the address of a collector such as http://127.0.0.1:4318";
    if text.starts_with("https://") {
        return Err("collectors are spoken to in plain HTTP: name one on this machine, which may send on by TLS");
    }
    let rest = text.strip_prefix("http://").ok_or(FORM)?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let target = crate::flow::Target::parse_or_port(authority.as_bytes(), PORT).map_err(|_| FORM)?;
    let is_clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !is_clean(path) {
        return Err(FORM);
    }
    let host = match target.host {
        crate::flow::Host::Ip(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    };
    let path = if matches!(path, "" | "/") { PATH } else { path };
    Ok(OtlpSettings { host, port: target.port, path: path.to_owned(), sampling_percent: 100 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_read_with_its_usual_port_and_path() {
        let read = |text| endpoint(text).map(|read| format!("{read}{}", read.path));
        assert_eq!(read("http://127.0.0.1"), Ok("127.0.0.1:4318/v1/traces".to_owned()));
        assert_eq!(read("http://collector.test:80/x/y"), Ok("collector.test:80/x/y".to_owned()));
        assert_eq!(read("http://[::1]:4318/"), Ok("[::1]:4318/v1/traces".to_owned()));
        for bad in
            ["", "127.0.0.1:4318", "http://", "http://a b", "http://a/b c", "https://a", "grpc://a", "http://a:0"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
