//! A headless Chromium, driven over the pipe of its DevTools protocol: no WebSocket, no library.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Folder, PATIENCE};

/// One page in a browser of its own. Ended when dropped.
pub(crate) struct Chromium {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Value,
    next: u64,
    _profile: Folder,
}

impl Chromium {
    /// Opens a page; `dark`: the system prefers dark colours.
    pub(crate) fn open(url: &str, dark: bool) -> Self {
        Self::start(url, dark, &["--no-proxy-server"])
    }

    /// Opens a page through a proxy, which decides for all hosts; certificates are not looked at.
    pub(crate) fn open_through(proxy: &str, url: &str) -> Self {
        let proxy = format!("--proxy-server={proxy}");
        Self::start(url, false, &[&proxy, "--proxy-bypass-list=<-loopback>", "--ignore-certificate-errors"])
    }

    fn start(url: &str, dark: bool, more: &[&str]) -> Self {
        let profile = Folder::new();
        // The pipe is on descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", "chromium"])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--window-size=1280,1000", "--remote-debugging-pipe"])
            .args(more)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, from) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                if tell.send(serde_json::from_slice(&message).unwrap_or_default()).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let to = child.stdin.take().unwrap();
        let mut browser = Self { child, to, from, session: Value::Null, next: 0, _profile: profile };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        browser.session =
            browser.ask("Target.attachToTarget", json!({ "targetId": target, "flatten": true }))["sessionId"].clone();
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        browser.ask("Emulation.setEmulatedMedia", json!({ "features": features }));
        browser.ask("Page.enable", json!({}));
        browser.ask("Page.navigate", json!({ "url": url }));
        browser.until("document.readyState === 'complete' && location.protocol !== 'about:'");
        browser
    }

    /// The value of an expression; a promise is waited for.
    ///
    /// # Panics
    /// When it throws.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let told = self
            .ask("Runtime.evaluate", json!({ "expression": expression, "awaitPromise": true, "returnByValue": true }));
        assert!(told.get("exceptionDetails").is_none(), "{expression}: {told}");
        told["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.value(expression) != true {
            assert!(
                Instant::now() < end,
                "not within {PATIENCE:?}: {expression}\n{}",
                self.value("document.body.innerText")
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Presses a key, such as `Tab` or `Enter`, or types a character.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => 0,
        };
        let text = match key {
            "Enter" => "\r",
            key if key.len() == 1 => key,
            _ => "",
        };
        let event = |kind: &str| json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
        self.ask("Input.dispatchKeyEvent", event(if text.is_empty() { "rawKeyDown" } else { "keyDown" }));
        self.ask("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }));
    }

    /// A picture of the whole page.
    pub(crate) fn screenshot(&mut self, path: &Path) {
        let told = self.ask("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let png = base64::engine::general_purpose::STANDARD.decode(told["data"].as_str().unwrap()).unwrap();
        assert!(png.starts_with(b"\x89PNG"));
        std::fs::write(path, png).unwrap();
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let told = self.from.recv_timeout(left).unwrap_or_else(|error| panic!("{method}: {error}"));
            if told["id"] == self.next {
                assert!(told.get("error").is_none(), "{method}: {told}");
                return told["result"].clone();
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
