//! Node's `http`, which knows no proxies: by hand, as the agents from npm do it.

use super::{REFUSED, REFUSING, World};
use crate::support::peer::{Ran, command, run};

fn node(world: &World, script: &str, args: &[&str]) -> Ran {
    let port = world.egret.proxy().port().to_string();
    let mut node = command("node");
    run(node.env("NODE_EXTRA_CA_CERTS", &world.ca).args(["-e", script, "--", &port]).args(args))
}

const CONNECT: &str = "
const http = require('http'), https = require('https');
const [port, target, host] = process.argv.slice(1);
const request = http.request({ port, method: 'CONNECT', path: target, headers: { Host: target } });
request.on('connect', (answer, socket) => {
    console.log(answer.statusCode, answer.statusMessage);
    if (answer.statusCode !== 200) return socket.on('data', () => {}).on('end', () => console.log('closed'));
    const inner = https.request({ socket, servername: host, method: 'POST', path: '/node', headers: { Host: host },
        agent: false }, (answer) => answer.on('data', (data) => console.log(answer.statusCode, data.toString())));
    inner.end('from node');
});
request.end();
";
const ABSOLUTE: &str = "
const http = require('http');
const [port, url] = process.argv.slice(1);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ports = new Set();
const ask = (n) => {
    const request = http.request({ port, agent, method: 'POST', path: url + n, headers: { Host: new URL(url).host } });
    request.on('response', (answer) => {
        answer.on('data', (data) => ports.add(request.socket.localPort) && console.log(answer.statusCode, data.toString()));
        answer.on('end', () => n < 2 ? ask(n + 1) : agent.destroy(console.log(ports.size)));
    });
    request.write('chunk'); // no length given: chunked
    request.end(String(n));
};
ask(1);
";

#[test]
fn method_connect_gives_a_socket_for_tls() {
    let world = World::new();
    let target = format!("secure.example:{}", world.tls.address.port());
    let ran = node(&world, CONNECT, &[&target, "secure.example"]);
    assert_eq!(ran.succeeded(), "200 Connection Established\n200 from node\n");
    world.egret.record("CONNECT").shows(&[("authority", &target), ("response_code", "200"), ("response_flags", "-")]);
}

#[test]
fn absolute_form_keeps_its_connection() {
    let world = World::new();
    let ran = node(&world, ABSOLUTE, &[&world.http("/")]);
    assert_eq!(ran.succeeded(), "200 chunk1\n200 chunk2\n1\n");
    for n in ["/1", "/2"] {
        world.egret.record(n).shows(&[("method", "POST"), ("response_code", "200"), ("bytes_received", "6")]);
    }
    assert!(world.plain.requests()[1].contains("ransfer-")); // as Node framed it
}

#[test]
fn a_refused_connect_is_an_answer_and_then_the_end() {
    let world = World::with(REFUSING);
    let ran = node(&world, CONNECT, &["secure.example:443", "secure.example"]);
    assert_eq!(ran.succeeded(), "403 Destination Not Allowed\nclosed\n");
    world.egret.record("CONNECT").shows(REFUSED);
}
