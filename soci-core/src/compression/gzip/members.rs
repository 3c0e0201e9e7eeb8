//! Plain bytes of a whole gzip file, for those who need no checkpoints.
//!
//! [`Members`] owns the decompressor of the present member. Invariant: zeros behind the last member are passed over as
//! gzip does; any other bytes there are an error, not silently the end.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// Compressed bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Reads all members, one behind the other.
#[derive(Debug)]
pub(crate) struct Members<R>(State<BufReader<R>>);

#[derive(Debug)]
enum State<R> {
    Member(Box<GzDecoder<R>>),
    Ended,
}

impl<R: Read> Members<R> {
    /// The members that `compressed` gives.
    pub(crate) fn new(compressed: R) -> Self {
        Self(State::Member(Box::new(GzDecoder::new(BufReader::with_capacity(CHUNK, compressed)))))
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let State::Member(member) = &mut self.0 else { return Ok(0) };
            let length = member.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            let State::Member(ended) = std::mem::replace(&mut self.0, State::Ended) else { return Ok(0) };
            let mut rest = ended.into_inner();
            match rest.fill_buf()?.first() {
                None => return Ok(0),
                Some(0) => only_zeros(rest)?,
                Some(_) => self.0 = State::Member(Box::new(GzDecoder::new(rest))),
            }
        }
    }
}

fn only_zeros(mut rest: impl BufRead) -> io::Result<()> {
    loop {
        let bytes = rest.fill_buf()?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes behind the last gzip member"));
        }
        match bytes.len() {
            0 => return Ok(()),
            length => rest.consume(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn member(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_zeros_are_read_to_their_end_and_nothing_else() {
        let read = |bytes: &[u8]| {
            let mut plain = Vec::new();
            Members::new(bytes).read_to_end(&mut plain).map(|_| plain)
        };
        let two = [member(b"one"), member(b""), member(b"two")].concat();
        assert_eq!(read(&two).unwrap(), b"onetwo");
        let padded = [&two[..], &vec![0; CHUNK + 3]].concat();
        assert_eq!(read(&padded).unwrap(), b"onetwo");
        assert!(read(&[&padded[..], b"x"].concat()).is_err());
        assert!(read(&[&two[..], b"x"].concat()).is_err());
        assert!(read(&two[..two.len() - 1]).is_err());
        assert!(read(b"").is_err());
    }
}
