//! undici, what Node's `fetch` is made of: its `ProxyAgent` asks for a tunnel, whatever the scheme. Before 6.3 it wrote the proxy into
//! the Host of its CONNECT.

use super::{BEHIND_TLS, OPENED, REFUSED, REFUSING, World};
use crate::support::peer::{Ran, command, packaged, run};

const FETCH: &str = "
const { ProxyAgent, fetch } = require('undici');
const ca = require('fs').readFileSync(process.argv[1]);
const [proxy, ...urls] = process.argv.slice(2);
(async () => {
    for (const url of urls) {
        const servername = new URL(url).hostname;
        const dispatcher = new ProxyAgent({ uri: proxy, requestTls: { ca, servername }, proxyTls: { ca } });
        const answer = await fetch(url, { dispatcher, method: 'POST', body: 'from undici' });
        console.log(answer.status, await answer.text());
        await dispatcher.destroy();
    }
})().catch((error) => { console.error(error.message, String(error.cause)); process.exit(1); });
";

fn undici(world: &World, proxy: &str, urls: &[&str]) -> Ran {
    let modules = packaged("/usr/share/nodejs/undici/package.json").parent().and_then(|folder| folder.parent());
    let mut node = command("node");
    node.env("NODE_PATH", modules.unwrap()).args(["-e", FETCH, "--"]).arg(&world.ca).arg(proxy);
    run(node.args(urls))
}

#[test]
fn fetch_goes_through_tunnels() {
    for setup in [Default::default(), BEHIND_TLS] {
        let world = World::with(setup);
        let proxy = if setup.listeners.is_empty() { world.proxy() } else { world.https_proxy() };
        let ran = undici(&world, &proxy, &[&world.http("/plain"), &world.https("/tls"), &world.https("/again")]);
        assert_eq!(ran.succeeded(), "200 from undici\n".repeat(3));
        assert!(world.plain.requests()[0].starts_with("POST /plain HTTP/1.1\r\n"));
        assert_eq!(world.tls.requests().len(), 2);
        let authority = |port: u16, name: &str| format!("{name}.example:{port}");
        for authority in [authority(world.plain.address.port(), "plain"), authority(world.tls.address.port(), "secure")]
        {
            let record = world.egret.record(&authority);
            record.shows(OPENED);
            record.shows(&[("authority", &authority)]);
        }
    }
}

#[test]
fn a_refused_tunnel_is_an_error() {
    let world = World::with(REFUSING);
    let ran = undici(&world, &world.proxy(), &[&world.https("/")]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    // Of status and phrase it shows nothing: `request` says that the proxy did not answer 200, `fetch` not even that.
    assert!(ran.stderr.contains("fetch failed"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
}
