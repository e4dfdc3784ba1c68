//! requests, httpx and aiohttp, with the proxy in the environment.

use super::{BEHIND_TLS, OPENED, REFUSED, REFUSING, TUNNELLED, World};
use crate::support::peer::{Ran, command_at, packaged, run};

const REQUESTS: &str = "
import sys, requests
for url in sys.argv[2:]:
    answer = requests.post(url, data=b'from requests', verify=sys.argv[1], timeout=15)
    print(answer.status_code, answer.text.strip())
";
const HTTPX: &str = "
import sys, httpx
with httpx.Client(verify=sys.argv[1], timeout=15) as client:
    for url in sys.argv[2:]:
        answer = client.post(url, content=b'from httpx')
        print(answer.status_code, answer.text.strip())
";
const AIOHTTP: &str = "
import asyncio, os, ssl, sys, aiohttp
async def main():
    proxy = os.environ.get('AIOHTTP_PROXY') # one by TLS is not looked for in the usual variables
    tls = ssl.create_default_context(cafile=sys.argv[1])
    async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(15)) as session:
        for url in sys.argv[2:]:
            async with session.post(url, data=b'from aiohttp', ssl=tls, proxy=proxy) as answer:
                print(answer.status, (await answer.text()).strip())
asyncio.run(main())
";
const LIBRARIES: &[(&str, &str)] = &[("requests", REQUESTS), ("httpx", HTTPX), ("aiohttp", AIOHTTP)];

/// Runs a script of Debian's Python, whose modules are Debian's packages.
fn python(world: &World, proxy: &str, script: &str, args: &[&str]) -> Ran {
    let mut python = command_at(packaged("/usr/bin/python3"));
    python.env("http_proxy", proxy).env("https_proxy", proxy).args(["-c", script]).arg(&world.ca);
    run(python.args(args))
}

#[test]
fn each_goes_by_the_environment() {
    let world = World::new();
    for (n, (name, script)) in LIBRARIES.iter().enumerate() {
        let urls = [world.http(&format!("/{name}")), world.https(&format!("/{name}"))];
        let ran = python(&world, &world.proxy(), script, &[&urls[0], &urls[1]]);
        assert_eq!(ran.succeeded(), format!("200 from {name}\n200 from {name}\n"));
        let line = format!("POST /{name} HTTP/1.1\r\n");
        assert!(world.plain.requests()[n].starts_with(&line) && world.tls.requests()[n].starts_with(&line));
        let plain = world.egret.record(&format!("/{name}\""));
        plain.shows(&[("method", "POST"), ("response_code", "200"), ("response_flags", "-")]);
        world.egret.nth_record("CONNECT", n + 1).shows(TUNNELLED);
    }
}

#[test]
fn each_reaches_the_proxy_by_tls() {
    let world = World::with(BEHIND_TLS);
    let mut tunnels = 0;
    for (name, script) in LIBRARIES {
        let mut python = command_at(packaged("/usr/bin/python3"));
        // All of them verify the proxy's certificate, too, and not all by what they are given for the origin's.
        python.env("http_proxy", world.https_proxy()).env("https_proxy", world.https_proxy());
        python.env("AIOHTTP_PROXY", world.https_proxy());
        python.env("SSL_CERT_FILE", &world.ca).args(["-c", script]).arg(&world.ca).arg(world.http(&format!("/{name}")));
        let mut said = format!("200 from {name}\n");
        let both = *name != "httpx"; // Debian's has no TLS inside of TLS
        if both {
            python.arg(world.https(&format!("/{name}")));
            said = said.repeat(2);
        }
        assert_eq!(run(&mut python).succeeded(), said);
        world.egret.record(&format!("/{name}\"")).shows(&[("response_code", "200"), ("response_flags", "-")]);
        if both {
            tunnels += 1;
            world.egret.nth_record("CONNECT", tunnels).shows(OPENED);
        }
    }
}

#[test]
fn each_shows_its_user_why_it_was_refused() {
    let world = World::with(REFUSING);
    for (n, (name, script)) in LIBRARIES.iter().enumerate() {
        let ran = python(&world, &world.proxy(), script, &[&world.https("/")]);
        assert_eq!(ran.code, Some(1), "{name}: {ran:?}");
        let last = ran.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("403") && last.contains("Destination Not Allowed"), "{name}: {}", ran.stderr);
        world.egret.nth_record("CONNECT", n + 1).shows(REFUSED);
        let ran = python(&world, &world.proxy(), script, &[&world.http("/")]);
        let port = world.plain.address.port();
        assert_eq!(ran.succeeded(), format!("403 egret: no route allows plain.example:{port} (not_found)\n"), "{name}");
    }
}

const WEBSOCKET: &str = "
import asyncio, sys, aiohttp
from aiohttp import web
async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data + ' back')
    return socket
async def main():
    app = web.Application()
    app.router.add_get('/chat', echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, '127.0.0.1', 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        # aiohttp writes ws:// into the request line.
        async with session.ws_connect(f'ws://plain.example:{port}/chat', proxy=sys.argv[1]) as socket:
            await socket.send_str('there and')
            print(await socket.receive_str())
    await runner.cleanup()
asyncio.run(main())
";

#[test]
fn aiohttp_opens_a_websocket() {
    let world = World::new();
    let mut python = command_at(packaged("/usr/bin/python3"));
    assert_eq!(run(python.args(["-c", WEBSOCKET, &world.proxy()])).succeeded(), "there and back\n");
    world.egret.record("/chat").shows(&[("method", "GET"), ("response_code", "101"), ("response_flags", "-")]);
}
