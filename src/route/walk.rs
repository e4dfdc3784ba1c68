//! Looks at everything that the rules lead to, for operators.

use std::sync::Arc;

use super::{Cluster, Hop, Snapshot, Via};

impl Snapshot {
    /// Shows every cluster that a rule leads to, parents on the way included, some more than once.
    pub fn for_each_cluster(&self, mut look: impl FnMut(&Cluster)) {
        self.for_each_route(|cluster| {
            look(cluster);
            if let Via::Connect(hop) = &cluster.via {
                look(&hop.cluster);
            }
        });
    }

    /// Shows every parent on a way, most of them more than once.
    pub fn for_each_hop(&self, mut look: impl FnMut(&Arc<Hop>)) {
        self.for_each_route(|cluster| {
            if let Via::Connect(hop) = &cluster.via {
                look(hop);
            }
        });
    }

    fn for_each_route(&self, mut look: impl FnMut(&Cluster)) {
        for view in self.all_views() {
            look(view.unknown());
            view.parents.iter().flat_map(|parents| parents.clusters()).for_each(|cluster| look(cluster));
            for service in view.services() {
                look(&service.cluster);
                service.routes.iter().for_each(|routes| routes.for_each_cluster(&mut look));
            }
        }
    }
}
