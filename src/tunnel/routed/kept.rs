//! A body that can be sent once more: what went by is kept, up to a bound.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::http1::body::Decoded;
use crate::stream::http2::Window;
use crate::tunnel::body::{CopyError, Source};

/// A source that remembers what it gave.
pub(in crate::tunnel) struct Kept<S> {
    inner: S,
    /// Copied: a piece would keep the whole buffer that it was read into.
    kept: BytesMut,
    /// How it ended, with its trailers.
    end: Option<(Option<Bytes>, Instant)>,
    /// How much of what is kept was given again; `None`: all, and the rest comes from the client.
    replayed: Option<usize>,
    is_keeping: bool,
    /// Something went by that is not kept.
    is_lost: bool,
}

/// ATTACKS: "a request body is buffered for retry only up to 64 KiB".
pub(super) const KEPT_BYTES_MAX: usize = 64 * 1024;

impl<S> Kept<S> {
    pub(super) fn new(inner: S, is_keeping: bool) -> Self {
        Self { inner, kept: BytesMut::new(), end: None, replayed: None, is_keeping, is_lost: false }
    }

    /// Begins again; for one that can.
    pub(super) fn rewind(&mut self) {
        self.replayed = Some(0);
    }

    /// True while everything that went by is kept.
    pub(super) fn can_rewind(&self) -> bool {
        !self.is_lost
    }

    /// The whole body, if it came to its end and all of it is kept.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        (self.end.is_some() && !self.is_lost).then_some(&self.kept)
    }

    /// Since when the body is complete.
    pub(super) fn complete_since(&self) -> Option<Instant> {
        self.end.as_ref().map(|(_, at)| *at)
    }

    fn keep(&mut self, data: &Bytes) {
        if self.is_lost || !self.is_keeping || self.kept.len() + data.len() > KEPT_BYTES_MAX {
            self.is_lost = true;
            self.kept = BytesMut::new();
            return;
        }
        self.kept.extend_from_slice(data);
    }
}

impl<S: Source> Source for Kept<S> {
    fn next(&mut self) -> Result<Decoded, CopyError> {
        if let Some(at) = self.replayed.take() {
            if at < self.kept.len() {
                self.replayed = Some(self.kept.len());
                return Ok(Decoded::Data(Bytes::copy_from_slice(&self.kept[at..])));
            }
            if let Some((trailers, _)) = &self.end {
                return Ok(trailers.clone().map_or(Decoded::End, Decoded::Trailers));
            }
        }
        let next = self.inner.next()?;
        match &next {
            Decoded::Data(data) => self.keep(data),
            Decoded::More => {}
            Decoded::End => self.end = Some((None, Instant::now())),
            Decoded::Trailers(trailers) => self.end = Some((Some(trailers.clone()), Instant::now())),
        }
        Ok(next)
    }

    async fn fill(&mut self, at_once: usize) -> Result<(), CopyError> {
        self.inner.fill(at_once).await
    }

    fn window(&self) -> Option<&Window> {
        self.inner.window()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Pieces(Vec<Decoded>);

    impl Source for Pieces {
        fn next(&mut self) -> Result<Decoded, CopyError> {
            Ok(if self.0.is_empty() { Decoded::More } else { self.0.remove(0) })
        }

        async fn fill(&mut self, _: usize) -> Result<(), CopyError> {
            Ok(())
        }

        fn window(&self) -> Option<&Window> {
            None
        }
    }

    fn data(length: usize) -> Decoded {
        Decoded::Data(vec![b'x'; length].into())
    }

    fn taken<S: Source>(source: &mut Kept<S>) -> (usize, bool) {
        let mut bytes = 0;
        loop {
            match source.next().unwrap() {
                Decoded::Data(data) => bytes += data.len(),
                Decoded::More => return (bytes, false),
                Decoded::End | Decoded::Trailers(_) => return (bytes, true),
            }
        }
    }

    #[test]
    fn a_body_is_given_again_from_its_beginning_and_goes_on_where_it_was() {
        let mut kept = Kept::new(Pieces(vec![data(10), Decoded::More, data(5), Decoded::End]), true);
        kept.rewind();
        assert_eq!(taken(&mut kept), (10, false));
        kept.rewind();
        assert_eq!(taken(&mut kept), (15, true));
        kept.rewind();
        assert_eq!(taken(&mut kept), (15, true));
        assert_eq!(kept.whole().map(<[u8]>::len), Some(15));
        assert!(kept.complete_since().is_some());
    }

    #[test]
    fn the_bound_is_exact() {
        for (length, can) in [(KEPT_BYTES_MAX, true), (KEPT_BYTES_MAX + 1, false)] {
            let mut kept = Kept::new(Pieces(vec![data(length - 1), data(1), Decoded::End]), true);
            kept.rewind();
            assert_eq!(taken(&mut kept), (length, true));
            assert_eq!((kept.can_rewind(), kept.whole().is_some()), (can, can), "{length}");
        }
    }

    #[test]
    fn what_nobody_wants_again_is_not_kept() {
        let mut kept = Kept::new(Pieces(vec![data(10), Decoded::End]), false);
        assert!(kept.can_rewind(), "nothing went by yet");
        assert_eq!(taken(&mut kept), (10, true));
        assert!(!kept.can_rewind() && kept.whole().is_none() && kept.complete_since().is_some());
    }
}
