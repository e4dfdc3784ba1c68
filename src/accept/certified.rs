//! Who clients act for that show a SPIFFE certificate: its namespace and account replace those of the listener's workload (CONTRACT).

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

use crate::flow::{Identity, Workload};

/// The workloads of a listener: its own, and one for each certificate that names another. Kept, because counters are found by the
/// workload itself.
#[derive(Debug)]
pub struct Workloads {
    own: Arc<Workload>,
    certified: Mutex<HashMap<Arc<str>, Arc<Workload>>>,
}

const CERTIFIED_MAX: usize = 1024; // the authority of the listener says how many there are; past that many they are made anew

impl Workloads {
    /// Those of a listener that acts for `own`.
    pub fn new(own: Arc<Workload>) -> Self {
        Self { own, certified: Mutex::default() }
    }

    /// The listener's own.
    pub fn own(&self) -> &Arc<Workload> {
        &self.own
    }

    /// The one that a client of this identity acts for.
    pub fn of(&self, identity: &Identity) -> Arc<Workload> {
        let Identity::Certificate(name) = identity else { return self.own.clone() };
        let mut certified = self.certified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workload) = certified.get(name) {
            return workload.clone();
        }
        let Some(workload) = self.own.certified(name).map(Arc::new) else { return self.own.clone() };
        if certified.len() >= CERTIFIED_MAX {
            certified.clear();
        }
        certified.insert(name.clone(), workload.clone());
        workload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Identity {
        Identity::Certificate(name.into())
    }

    #[test]
    fn a_spiffe_name_replaces_namespace_and_account_and_keeps_the_labels() {
        let mut own = Workload::default();
        own.labels.insert("app".to_owned(), "ci".to_owned());
        let workloads = Workloads::new(Arc::new(own.clone()));
        let robot = workloads.of(&certificate("spiffe://td/ns/build/sa/robot"));
        assert_eq!((&*robot.namespace, &*robot.service_account, &robot.labels), ("build", "robot", &own.labels));
        assert!(Arc::ptr_eq(&robot, &workloads.of(&certificate("spiffe://td/ns/build/sa/robot"))));
        for other in [
            "build.example",
            "spiffe://td/ns/build",
            "spiffe://td/ns/build/sa/",
            "spiffe://td/ns//sa/robot",
            "spiffe:///ns/build/sa/robot",
            "spiffe://td/ns/build/sa/robot/x",
            "spiffe://td/sa/build/ns/robot",
        ] {
            assert!(Arc::ptr_eq(workloads.own(), &workloads.of(&certificate(other))), "{other}");
        }
        assert!(Arc::ptr_eq(workloads.own(), &workloads.of(&Identity::User("spiffe://td/ns/build/sa/robot".into()))));
    }

    #[test]
    fn certificates_without_number_fill_no_memory() {
        let workloads = Workloads::new(Arc::default());
        for n in 0..3 * CERTIFIED_MAX {
            workloads.of(&certificate(&format!("spiffe://td/ns/n{n}/sa/a")));
        }
        assert!(workloads.certified.lock().unwrap_or_else(PoisonError::into_inner).len() <= CERTIFIED_MAX);
    }
}
