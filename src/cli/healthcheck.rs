//! `egret healthcheck`: is a running proxy ready? For the HEALTHCHECK of a container that holds no curl.

use super::args::HealthcheckArgs;
use super::ask::AdminClient;
use super::exit::Exit;
use super::{complain, say};

/// 0: ready; 1: anything else, as Docker has it.
pub(super) fn healthcheck(args: &HealthcheckArgs) -> Exit {
    let answer = AdminClient::find(&args.admin).and_then(|admin| admin.get("/readyz", args.timeout));
    match answer {
        Ok(answer) if answer.status == 200 => {
            say("ready\n");
            Exit::Ok
        }
        Ok(answer) => {
            complain(format_args!("not ready: {} {}", answer.status, answer.text().trim()));
            Exit::Failed
        }
        Err(error) => {
            complain(error);
            Exit::Failed
        }
    }
}
