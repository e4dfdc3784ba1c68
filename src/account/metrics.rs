//! Counters and gauges of the whole process.

/// A connection was closed because a bound on connections was reached.
pub fn connection_refused() {
    unimplemented!()
}
