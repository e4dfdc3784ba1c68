//! The operator's page in a headless Chromium, and the documents it reads.

use std::io::{BufRead, BufReader, Write};

use super::ask;
use crate::support::chromium::Chromium;
use crate::support::origin::Origin;
use crate::support::{Egret, Folder, client, eventually};

const TOKEN: &str = "0123456789abcdef";

/// REGISTRY_ONLY with one open target, and a token.
fn start(folder: &Folder, origin: &Origin) -> Egret {
    folder.write("token", TOKEN);
    folder.write("hosts", "127.0.0.1 api.test\n");
    let port = origin.address.port();
    let settings = format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\ndns: {{ hosts: hosts }}\nallow: [\"api.test:{port}\"]\n\
         mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }} }}\nconsistency: {{ mode: off }}\n"
    );
    let settings = folder.write("egret.yaml", &settings);
    Egret::spawn(&["run".as_ref(), "-c".as_ref(), settings.as_os_str()])
}

#[test]
fn refusals_are_counted_and_told_with_the_yaml_that_would_allow_them() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, &origin);
    for _ in 0..2 {
        let (_, head) = client::connect(egret.proxy(), "stranger.test:443");
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    }
    let (_, head) = client::connect(egret.proxy(), "api.test:9");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let told = ask(&egret, &[], "/refusals").json();
    let [port, stranger] = [&told["refusals"][0], &told["refusals"][1]];
    assert_eq!(
        (&stranger["target"], &stranger["times"], &stranger["asked_by"]),
        (&"stranger.test:443".into(), &2.into(), &"connect".into())
    );
    assert_eq!(stranger["reason"], "not_found");
    assert_eq!(stranger["remedies"][0]["yaml"], "allow: [\"stranger.test:443\"]");
    assert_eq!(port["nearest"]["differs_in"], "port");
    assert!(port["remedies"][0]["yaml"].as_str().unwrap().starts_with("- { number: 9, "), "{port}");
    assert_eq!(stranger["allowed_now"], false);
    // What the remedy says does allow it.
    let settings = std::fs::read_to_string(folder.settings()).unwrap();
    let line = settings.lines().find(|line| line.starts_with("allow: ")).unwrap();
    folder.write("egret.yaml", &settings.replace(line, stranger["remedies"][0]["yaml"].as_str().unwrap()));
    egret.stderr.wait_for("reloaded");
    assert_eq!(ask(&egret, &[], "/refusals").json()["refusals"][1]["allowed_now"], true);
    assert_eq!(ask(&egret, &[], "/refusals?limit=1").json()["refusals"].as_array().unwrap().len(), 1);
}

#[test]
fn destinations_count_open_and_ended_flows_together() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, &origin);
    let target = format!("api.test:{}", origin.address.port());
    let mut first = client::tunnel(egret.proxy(), &target);
    assert!(client::echoes(&mut first, &[7; 100]));
    let top = || ask(&egret, &[], "/destinations").json()["destinations"][0].clone();
    assert_eq!((&top()["target"], &top()["flows"], &top()["bytes"]), (&target.as_str().into(), &1.into(), &200.into()));
    drop(first);
    eventually("it is over", || egret_tunnels(&egret) == 0);
    let mut second = client::tunnel(egret.proxy(), &target);
    assert!(client::echoes(&mut second, &[7; 50]));
    assert_eq!((&top()["flows"], &top()["bytes"]), (&2.into(), &300.into()));
}

fn egret_tunnels(egret: &Egret) -> u64 {
    ask(egret, &[], "/tunnels").json()["open"].as_u64().unwrap()
}

#[test]
fn events_tell_of_tunnels_refusals_reloads_and_the_end() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let mut egret = start(&folder, &origin);
    let target = format!("api.test:{}", origin.address.port());
    let mut stream = client::dial(egret.admin());
    write!(stream, "GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", egret.admin()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
    assert!(lines.by_ref().any(|line| line == "content-type: text/event-stream"));
    assert!(lines.by_ref().any(|line| line.starts_with("retry: ")), "it has begun");
    let mut next = |name: &str| {
        assert!(lines.by_ref().any(|line| line == format!("event: {name}")), "{name}");
        let data = lines.next().unwrap();
        serde_json::from_str::<serde_json::Value>(data.strip_prefix("data: ").unwrap()).unwrap()
    };
    let mut tunnel = client::tunnel(egret.proxy(), &target);
    let opened = next("opened");
    assert_eq!(opened["target"], target.as_str());
    assert!(client::echoes(&mut tunnel, b"four"));
    drop(tunnel);
    let closed = next("closed");
    assert_eq!((&closed["id"], &closed["sent_bytes"]), (&opened["id"], &4.into()));
    client::connect(egret.proxy(), "stranger.test:443");
    assert_eq!(next("refused")["reason"], "not_found");
    egret.reload();
    assert_eq!(next("reload")["ok"], true);
    // A tunnel keeps the drain from being over before anybody could be told of it.
    let tunnel = client::tunnel(egret.proxy(), &target);
    egret.signal(rustix::process::Signal::TERM);
    assert_eq!(next("drain")["tunnels"], 1);
    drop(tunnel);
    assert_eq!(egret.wait().code(), Some(0));
}

#[test]
fn those_who_follow_events_have_a_bound_and_leave_room_for_others() {
    let egret = Egret::start();
    let follow = || {
        let mut stream = client::dial(egret.admin());
        write!(stream, "GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", egret.admin()).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (stream, line)
    };
    let followers: Vec<_> = (0..16).map(|_| follow()).collect();
    assert!(followers.iter().all(|(_, line)| line.starts_with("HTTP/1.1 200 ")));
    assert!(follow().1.starts_with("HTTP/1.1 503 "));
    assert_eq!(ask(&egret, &[], "/readyz").status, 200);
    drop(followers);
    eventually("there is room again", || follow().1.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_browser_gets_the_page_and_curl_the_list() {
    let egret = Egret::start();
    assert!(ask(&egret, &[], "/").body.starts_with("egret, the operator's port\n"));
    let told = ask(&egret, &["-i", "-H", "Accept: text/html,application/xhtml+xml"], "/");
    let head = told.body.split("\r\n\r\n").next().unwrap();
    assert!(
        head.contains("content-type: text/html") && head.contains("content-security-policy: default-src 'none';"),
        "{head}"
    );
    for (path, kind) in [("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        assert!(ask(&egret, &["-i"], path).body.contains(&format!("content-type: {kind}")), "{path}");
    }
    let page = told.body;
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("style="),
        "nothing from elsewhere"
    );
}

#[test]
fn the_page_shows_what_happens_and_is_used_from_the_keyboard() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, &origin);
    let target = format!("api.test:{}", origin.address.port());
    let mut tunnel = client::tunnel(egret.proxy(), &target);
    assert!(client::echoes(&mut tunnel, &[7; 40_000]));
    client::connect(egret.proxy(), "stranger.test:443");
    client::connect(egret.proxy(), "<img src=x onerror=alert(1)>.test:443");
    for dark in [false, true] {
        let mut page = Chromium::open(&format!("http://{}/", egret.admin()), dark);
        page.until("document.querySelector('#state').textContent === 'ready'");
        page.until("document.querySelectorAll('#list tbody tr').length === 1");
        page.until("document.querySelector('#line-down').getAttribute('d').length > 10");
        let row = page.value("document.querySelector('#list tbody tr').innerText");
        assert!(row.as_str().unwrap().contains(&target), "{row}");
        page.until("document.querySelector('#destinations tbody').innerText.includes('api.test')");
        page.until("document.querySelectorAll('#refusals li').length >= 1");
        let yaml = page.value("document.querySelector('#refusals pre').textContent");
        assert_eq!(yaml, "allow: [\"stranger.test:443\"]");
        assert_eq!(page.value("document.querySelectorAll('img').length"), 0);
        let background = page.value("getComputedStyle(document.body).backgroundColor");
        assert_eq!(background == "rgb(15, 21, 20)", dark, "{background}");
        // The first Tab is the link that skips to the tunnels; `/` goes to the filter, Escape empties it.
        page.press("Tab");
        assert_eq!(page.value("document.activeElement.className"), "skip");
        page.press("/");
        assert_eq!(page.value("document.activeElement.id"), "filter");
        for key in ["n", "o", "n", "e"] {
            page.press(key);
        }
        page.until("document.querySelectorAll('#list tbody tr').length === 0");
        page.press("Escape");
        page.until("document.querySelectorAll('#list tbody tr').length === 1");
        page.value("document.querySelector('th[data-sort=bytes] button').focus()");
        page.press("Enter");
        assert_eq!(page.value("document.querySelector('th[data-sort=bytes]').getAttribute('aria-sort')"), "descending");
        page.press("Enter");
        assert_eq!(page.value("document.querySelector('th[data-sort=bytes]').getAttribute('aria-sort')"), "ascending");
        page.value("document.querySelector('#theme').click()");
        assert_eq!(page.value("document.documentElement.dataset.theme"), "light");
        page.value("document.querySelector('#theme').click(), document.querySelector('#theme').click()");
        page.value("document.querySelector('#refusals summary').click()");
        // For people to look at: target/tmp/page-light.png and page-dark.png.
        let pictures = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(pictures).unwrap();
        page.screenshot(&pictures.join(if dark { "page-dark.png" } else { "page-light.png" }));
    }
}

#[test]
fn a_tunnel_is_ended_from_the_page_with_the_token_and_not_without() {
    let (origin, folder) = (Origin::echo(), Folder::new());
    let egret = start(&folder, &origin);
    let mut tunnel = client::tunnel(egret.proxy(), format!("api.test:{}", origin.address.port()));
    assert!(client::echoes(&mut tunnel, b"x"));
    let mut page = Chromium::open(&format!("http://{}/", egret.admin()), false);
    page.until("document.querySelectorAll('#list tbody tr').length === 1");
    assert_eq!(page.value("document.querySelectorAll('.kill').length"), 0, "nobody has shown a token");
    page.value("document.querySelector('#token').focus()");
    for key in "wrong".chars() {
        page.press(&key.to_string());
    }
    page.until("document.querySelectorAll('.kill').length === 1");
    page.value("document.querySelector('.kill').click()");
    page.until("document.querySelector('#notice').textContent === 'the token is wrong'");
    assert!(client::echoes(&mut tunnel, b"still here"));
    page.value(&format!("document.querySelector('#token').value = '{TOKEN}'"));
    page.value("document.querySelector('.kill').focus()");
    page.press("Enter");
    page.until("document.querySelector('#notice').textContent.startsWith('Ended: ')");
    assert!(client::ends(&mut tunnel));
    page.until("document.querySelectorAll('#list tbody tr').length === 0");
}
