//! `egret completions` and `egret man`: what packages ship, made from the command line itself.

use clap::CommandFactory;
use clap_mangen::Man;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::exit::Exit;
use super::{complain, say};

pub(super) fn completions(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "egret", &mut script);
    say(&String::from_utf8_lossy(&script));
    Exit::Ok
}

pub(super) fn man(args: &ManArgs) -> Exit {
    let command = Cli::command();
    let Some(folder) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page).expect("memory takes all that is written");
        say(&String::from_utf8_lossy(&page));
        return Exit::Ok;
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    match written {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(format_args!("--dir {}: {error}", folder.display()));
            Exit::CannotCreate
        }
    }
}
