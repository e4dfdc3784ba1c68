//! Looks at everything that the rules lead to, for operators.

use super::{Cluster, Snapshot, Via};

impl Snapshot {
    /// Shows every cluster that a rule leads to, parents on the way included, some more than once.
    pub fn for_each_cluster(&self, mut look: impl FnMut(&Cluster)) {
        let mut with_parent = |cluster: &Cluster| {
            look(cluster);
            if let Via::Connect(hop) = &cluster.via {
                look(&hop.cluster);
            }
        };
        for view in self.all_views() {
            with_parent(view.unknown());
            for service in view.services() {
                with_parent(&service.cluster);
                service.routes.iter().for_each(|routes| routes.for_each_cluster(&mut with_parent));
            }
        }
    }
}
