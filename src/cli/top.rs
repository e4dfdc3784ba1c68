//! `egret top`: the open tunnels of a running proxy, live in a terminal. [`view`] is what is shown and what keys do, without any
//! terminal; here are the terminal and the thread that asks.

mod refusals;
mod view;

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::args::TopArgs;
use super::ask::AdminClient;
use super::complain;
use super::environment::Look;
use super::exit::Exit;
use refusals::Refused;
use view::{Listing, Refusals, Sample, Step, View, Wanted};

pub(super) fn top(args: &TopArgs) -> Exit {
    let admin = match AdminClient::find(&args.admin) {
        Ok(admin) => admin,
        Err(error) => {
            complain(error);
            return Exit::Unavailable;
        }
    };
    if !std::io::stdout().is_terminal() {
        complain("top needs a terminal; for programs there is /tunnels of the admin port");
        return Exit::Usage;
    }
    let view = View::new(admin.to_string(), Look::of_stdout().color);
    let (wanted, asked) = sync_channel(1);
    let (tell, told) = sync_channel(1);
    let interval = args.interval;
    // Ends with the process, at the latest; nobody waits for an answer that is under way.
    std::thread::spawn(move || ask_forever(&admin, interval, view::Wanted::default(), &asked, &tell));
    match show(view, &wanted, &told) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(format_args!("the terminal: {error}"));
            Exit::Unavailable
        }
    }
}

const KEY_TIME: Duration = Duration::from_millis(50); // how late an answer is shown
const ANSWER_TIME: Duration = Duration::from_secs(5);

fn show(mut view: View, wanted: &SyncSender<Wanted>, told: &Receiver<Result<Sample, String>>) -> std::io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let shown = (|| {
        let mut is_stale = true;
        loop {
            while let Ok(sample) = told.try_recv() {
                view.take(sample);
                is_stale = true;
            }
            if is_stale {
                terminal.draw(|frame| view.draw(frame))?;
                is_stale = false;
            }
            if !event::poll(KEY_TIME)? {
                continue;
            }
            is_stale = true;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match view.press(key) {
                    Step::Quit => return Ok(()),
                    Step::Ask => _ = wanted.try_send(view.wanted()), // full: an answer to an earlier key comes first
                    Step::Stay => {}
                },
                _ => {}
            }
        }
    })();
    ratatui::try_restore()?;
    shown
}

/// Asks once each `interval`, and at once when something else is wanted; ends with who listens.
fn ask_forever(
    admin: &AdminClient,
    interval: Duration,
    mut wanted: Wanted,
    asked: &Receiver<Wanted>,
    tell: &SyncSender<Result<Sample, String>>,
) {
    while tell.send(ask(admin, &wanted)).is_ok() {
        match asked.recv_timeout(interval) {
            Ok(other) => wanted = other,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn ask(admin: &AdminClient, wanted: &Wanted) -> Result<Sample, String> {
    let get = |path: &str| {
        let answer = admin.get(path, ANSWER_TIME).map_err(|error| error.to_string())?;
        match answer.status {
            200 => Ok(answer),
            status => Err(format!("{status} {}", answer.text().trim())),
        }
    };
    let listing: Listing = serde_json::from_slice(&get(&wanted.path())?.body)
        .map_err(|error| format!("what /tunnels says is not understood: {error}"))?;
    let refused: Refused = serde_json::from_slice(&get("/refusals?limit=200")?.body)
        .map_err(|error| format!("what /refusals says is not understood: {error}"))?;
    Ok(Sample { listing, refused, refusals: Refusals::of(&get("/metrics")?.text()) })
}
