//! Which fields of a request travel, and who a request goes to.

use std::io::Write;

use super::{converse, proxy, read_to_end};
use crate::support::client;
use crate::support::origin::{HELLO, Origin, read_head};

#[test]
fn a_request_travels_in_its_own_order_and_case_without_what_belongs_to_one_connection() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let request = "GET http://{o}/a/../b?c=d&&e HTTP/1.1\r\n\
                   x-B: 1\r\n\
                   hOsT: evil.test\r\n\
                   Connection: X-Gone, keep-alive\r\n\
                   X-gone: 1\r\n\
                   Keep-Alive: timeout=5\r\n\
                   Proxy-Connection: keep-alive\r\n\
                   Proxy-Authorization: Basic YTpi\r\n\
                   Proxy-Authenticate: Basic\r\n\
                   TE: trailers\r\n\
                   X-a: 2  3\r\n\
                   x-B:4\r\n\
                   Authorization: Basic YTpi\r\n\
                   \r\n";
    let mut stream = client::dial(egret.proxy());
    stream.write_all(request.replace("{o}", &origin.address.to_string()).as_bytes()).unwrap();
    assert_eq!(client::read_answer(&mut stream).status, 200);
    let expected = format!(
        "GET /a/../b?c=d&&e HTTP/1.1\r\nx-B: 1\r\nhOsT: {}\r\nX-a: 2  3\r\nx-B: 4\r\nAuthorization: Basic YTpi\r\n\
         Via: 1.1 egret-test\r\n\r\n",
        origin.address
    );
    assert_eq!(origin.requests(), [expected]);
}

#[test]
fn an_answer_travels_in_its_own_order_and_case_without_what_belongs_to_one_connection() {
    let origin = Origin::http(
        b"HTTP/1.1 299 Quite \xc3\xa9 OK\r\nx-B: 1\r\nConnection: x-gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\n\
          Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nTrailer: a\r\nX-a: 2\r\nx-B: 3\r\nSet-Cookie: a=b\r\n\
          Set-Cookie: c=d\r\nContent-Length: 5\r\n\r\nhello",
    );
    let (egret, _folder) = proxy("");
    let answer = client::get(egret.proxy(), &format!("http://{}/", origin.address));
    assert_eq!(
        answer.head,
        "HTTP/1.1 299 Quite é OK\r\nx-B: 1\r\nTrailer: a\r\nX-a: 2\r\nx-B: 3\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\
         Content-Length: 5\r\nVia: 1.1 egret-test\r\n\r\n"
    );
}

#[test]
fn via_can_be_switched_off_and_the_via_of_others_stays() {
    let origin = Origin::http(b"HTTP/1.0 200 OK\r\nVia: 1.1 theirs\r\nContent-Length: 5\r\n\r\nhello");
    let (loud, _folder) = proxy("");
    let silent = crate::support::Folder::with_settings(
        "listeners: [{ name: proxy, address: \"127.0.0.1:0\" }]\naddresses: { allow: [127.0.0.0/8] }\n\
         via: { name: egret-test, send: false }\n",
    );
    let silent = crate::support::Egret::with_settings(&silent.settings());
    let ask = |proxy| {
        let request = "GET http://{o}/ HTTP/1.0\r\nVia: 1.0 first, 1.1 second\r\n\r\n";
        converse(proxy, request.replace("{o}", &origin.address.to_string()))
    };
    let answer = ask(loud.proxy());
    assert!(answer.contains("\r\nVia: 1.1 theirs\r\n") && answer.contains("\r\nVia: 1.0 egret-test\r\n"), "{answer}");
    assert!(!ask(silent.proxy()).contains("egret-test"));
    let requests = origin.requests();
    assert!(requests[0].contains("\r\nVia: 1.0 first, 1.1 second\r\n"), "{requests:?}");
    assert!(requests[0].ends_with("\r\nVia: 1.0 egret-test\r\n\r\n"), "{requests:?}");
    assert!(requests[1].contains("\r\nVia: 1.0 first, 1.1 second\r\n"), "{requests:?}");
    assert!(!requests[1].contains("egret-test"), "{requests:?}");
}

#[test]
fn a_request_that_was_here_before_is_508() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let request =
        |via: &str| format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\nVia: {via}\r\n\r\n", o = origin.address);
    for via in ["1.1 egret-test", "1.0 other, 1.1 egret-test (us)", "1.0 other\r\nVia: 1.1 egret-test"] {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(request(via).as_bytes()).unwrap();
        assert_eq!(client::read_answer(&mut stream).status, 508, "{via}");
    }
    for via in ["1.1 egret-test-2", "1.1 not-egret-test", "1.1 other (egret-test)"] {
        let mut stream = client::dial(egret.proxy());
        stream.write_all(request(via).as_bytes()).unwrap();
        assert_eq!(client::read_answer(&mut stream).status, 200, "{via}");
    }
}

#[test]
fn a_client_of_http_1_0_needs_no_host_and_is_closed_unless_it_asks() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let text = converse(egret.proxy(), format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.address));
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nhello"), "{text}");
    assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
    let head = origin.requests().remove(0);
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && head.contains(&format!("\r\nHost: {}\r\n", origin.address)));

    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        write!(stream, "GET http://{}/ HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", origin.address).unwrap();
        let answer = client::read_answer(&mut stream);
        assert!(answer.head.to_ascii_lowercase().contains("\r\nconnection: keep-alive\r\n"), "{}", answer.head);
    }
    write!(stream, "GET http://{}/ HTTP/1.0\r\n\r\n", origin.address).unwrap();
    assert!(read_to_end(&mut stream).ends_with("hello"));
}

#[test]
fn a_client_that_says_close_is_answered_and_closed() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let one = |more: &str| format!("GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n{more}\r\n", o = origin.address);
    let text = converse(egret.proxy(), one("") + &one("") + &one("Connection: close\r\n") + &one(""));
    assert_eq!(super::answers(&text), 3, "{text}");
    assert_eq!(text.matches("\r\nConnection: close\r\n").count(), 1, "{text}");
}

#[test]
fn ports_that_the_scheme_means_are_left_out_of_host() {
    let (egret, folder) = proxy("");
    let origin = Origin::http(HELLO);
    folder.write("hosts", "127.0.0.1 shop.test\n");
    folder.write(
        "rules.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: shop }}\nspec:\n  hosts: [shop.test]\n  \
             resolution: STATIC\n  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {} }}]\n  \
             endpoints: [{{ address: 127.0.0.1 }}]\n",
            origin.address.port()
        ),
    );
    drop(egret);
    let settings = super::settings(&format!("resources: [{}]", folder.path().join("rules.yaml").display()));
    let egret = crate::support::Egret::with_settings(&settings.settings());
    for url in ["http://Shop.Test/a", "http://shop.test.:80/a", "http://shop.test:080/a"] {
        let mut stream = client::dial(egret.proxy());
        write!(stream, "GET {url} HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
        assert_eq!(client::read_answer(&mut stream).status, 200, "{url}");
    }
    for head in origin.requests() {
        assert!(head.starts_with("GET /a HTTP/1.1\r\nHost: shop.test\r\n"), "{head}");
    }
}

#[test]
fn max_forwards_0_is_answered_here_and_1_there() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let ask = |method: &str, left: &str| {
        let mut stream = client::dial(egret.proxy());
        write!(
            stream,
            "{method} http://{o}/x HTTP/1.1\r\nHost: {o}\r\nMax-Forwards: {left}\r\nAuthorization: secret\r\n\
             Cookie: secret\r\nProxy-Authorization: secret\r\nX-Mine: yes\r\n\r\n",
            o = origin.address
        )
        .unwrap();
        client::read_answer(&mut stream)
    };
    for method in ["OPTIONS", "TRACE"] {
        let answer = ask(method, "0");
        assert_eq!(answer.status, 200, "{method}");
        let body = String::from_utf8(answer.body).unwrap();
        assert!(!body.contains("secret"), "{body}");
        assert_eq!(body.contains("X-Mine: yes"), method == "TRACE", "{body}");
        assert_eq!(answer.head.contains("message/http"), method == "TRACE", "{}", answer.head);
    }
    assert!(origin.requests().is_empty());
    assert_eq!(ask("OPTIONS", "1").body, b"hello");
    assert_eq!(ask("TRACE", "1").body, b"hello");
    assert_eq!(ask("OPTIONS", "99999999999999999999").body, b"hello");
    assert_eq!(ask("GET", "0").body, b"hello", "other methods may ignore it");
    for bad in ["-1", "x", ""] {
        assert_eq!(ask("TRACE", bad).status, 400, "{bad:?}");
    }
    let requests = origin.requests();
    assert!(requests[..2].iter().all(|head| head.contains("\r\nMax-Forwards: 0\r\n")), "{requests:?}");
    assert!(requests[3].contains("\r\nMax-Forwards: 0\r\n"), "{requests:?}");
}

#[test]
fn a_request_that_is_answered_here_may_have_a_body() {
    let (egret, _folder) = proxy("");
    for body in [32 * 1024, 200 * 1024] {
        let mut stream = client::dial(egret.proxy());
        write!(
            stream,
            "OPTIONS http://h.test/ HTTP/1.1\r\nHost: h.test\r\nMax-Forwards: 0\r\nContent-Length: {body}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&vec![b'x'; body]).unwrap();
        let text = read_to_end(&mut stream);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("\r\nConnection: close\r\n"), "{text:?}");
    }
}

#[test]
fn origin_form_is_told_what_this_is_and_may_try_again() {
    let origin = Origin::http(HELLO);
    let (egret, _folder) = proxy("");
    let mut stream = client::dial(egret.proxy());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
    let answer = client::read_answer(&mut stream);
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("this is a proxy"));
    assert_eq!(client::ask(&mut stream, "GET", &format!("http://{}/", origin.address)).status, 200);
}

#[test]
fn interim_answers_reach_clients_that_know_them() {
    let origin = Origin::http(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    );
    let (egret, _folder) = proxy("");
    let mut stream = client::dial(egret.proxy());
    for _ in 0..2 {
        write!(stream, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n", o = origin.address).unwrap();
        assert_eq!(read_head(&mut stream).unwrap(), "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        assert_eq!(read_head(&mut stream).unwrap(), "HTTP/1.1 102 Processing\r\n\r\n");
        assert_eq!(client::read_answer(&mut stream).body, b"hello");
    }
    let text = converse(egret.proxy(), format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.address));
    assert!(text.starts_with("HTTP/1.1 200 ") && super::answers(&text) == 1, "{text}");
}

#[test]
fn an_origin_that_sends_interim_answers_without_end_is_502() {
    let origin = Origin::new(|mut stream| {
        let _ = read_head(&mut stream);
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {}
    });
    let (egret, _folder) = proxy("");
    let text = converse(egret.proxy(), format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.address));
    assert!(text.starts_with("HTTP/1.1 502 "), "{text}");
}
