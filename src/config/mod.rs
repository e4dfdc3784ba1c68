//! Files to resources to snapshot.
