//! Records of a journal: a kind, a length, the payload, and a checksum of all three. Numbers are little-endian.

use std::io::{self, BufRead, Write};

use ffmpeg_next::{Packet, packet};
use sha2::{Digest, Sha256};

/// Names the format and its version.
pub(super) const MAGIC: &[u8; 8] = b"LSRESUM1";
const CHECKSUM: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// JSON.
    Head = 1,
    /// Name of the file that a job writes to.
    Temporary = 2,
    Packet = 3,
    Segment = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Head, Self::Temporary, Self::Packet, Self::Segment]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// A complete segment: its number from 1 on, and what there is up to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub number: u64,
    pub frames: u64,
    pub packets: u64,
}

impl Segment {
    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.number, self.frames, self.packets]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([number, frames, packets], []) = bytes.as_chunks::<8>() else { return None };
        let [number, frames, packets] = [number, frames, packets].map(|bytes| u64::from_le_bytes(*bytes));
        Some(Self { number, frames, packets })
    }

    pub(super) fn follows(&self, before: &Self) -> bool {
        // Every frame is one packet.
        self.number == before.number + 1 && self.frames > before.frames && self.packets == self.frames
    }
}

/// `parts` are one payload.
pub(super) fn write(to: &mut impl Write, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let head = head_of(kind as u8, length);
    to.write_all(&head)?;
    let mut sum = Sha256::new_with_prefix(head);
    for part in parts {
        to.write_all(part)?;
        sum.update(part);
    }
    to.write_all(&sum.finalize()[..CHECKSUM])
}

fn head_of(kind: u8, length: u32) -> [u8; 5] {
    let [a, b, c, d] = length.to_le_bytes();
    [kind, a, b, c, d]
}

/// Records one after the other, up to the first that is torn.
pub(super) struct Reader<R> {
    from: R,
    position: u64,
    length: u64,
    payload: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// `from` is at its beginning and has `length` bytes.
    pub(super) fn new(mut from: R, length: u64) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { from, position: MAGIC.len() as u64, length, payload: Vec::new() })
    }

    /// Behind the latest record.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next whole record; `None` at the end and where the file makes no sense. Errors are the disk's.
    pub(super) fn next(&mut self) -> io::Result<Option<(Kind, &[u8])>> {
        let mut head = [0; 5];
        let overhead = (head.len() + CHECKSUM) as u64;
        let Some(left) = self.length.checked_sub(self.position + overhead) else { return Ok(None) };
        self.from.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        let Some(kind) = Kind::from_byte(kind).filter(|_| u64::from(length) <= left) else {
            return Ok(None);
        };
        self.payload.resize(length as usize, 0);
        self.from.read_exact(&mut self.payload)?;
        let mut checksum = [0; CHECKSUM];
        self.from.read_exact(&mut checksum)?;
        let sum = Sha256::new_with_prefix(head).chain_update(&self.payload).finalize();
        if sum[..CHECKSUM] != checksum {
            return Ok(None);
        }
        self.position += overhead + u64::from(length);
        Ok(Some((kind, &self.payload)))
    }
}

/// Times and flags, and the data behind them. Times count frames, as the encoder gives them.
pub(super) fn of_packet(packet: &Packet) -> ([u8; 20], &[u8]) {
    let mut head = [0; 20];
    head[..8].copy_from_slice(&packet.pts().unwrap_or(0).to_le_bytes());
    head[8..16].copy_from_slice(&packet.dts().unwrap_or(0).to_le_bytes());
    // SAFETY: reads a plain field of a valid packet.
    let flags = unsafe { (*packet::Ref::as_ptr(packet)).flags };
    head[16..].copy_from_slice(&flags.to_le_bytes());
    (head, packet.data().unwrap_or_default())
}

/// The opposite of [`of_packet`]; `None` where the payload is too short.
pub(super) fn to_packet(payload: &[u8]) -> Option<Packet> {
    let (pts, rest) = payload.split_first_chunk()?;
    let (dts, rest) = rest.split_first_chunk()?;
    let (flags, data) = rest.split_first_chunk()?;
    let mut packet = Packet::copy(data);
    packet.set_pts(Some(i64::from_le_bytes(*pts)));
    packet.set_dts(Some(i64::from_le_bytes(*dts)));
    // All of them, also those that the wrapper does not name: what may be dropped is noted in the file.
    // SAFETY: writes a plain field of a valid packet.
    unsafe { (*packet::Mut::as_mut_ptr(&mut packet)).flags = i32::from_le_bytes(*flags) };
    packet.set_duration(1);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_until_the_first_that_is_torn() {
        let mut file = MAGIC.to_vec();
        write(&mut file, Kind::Head, &[b"{}"]).unwrap();
        let whole = file.len();
        write(&mut file, Kind::Packet, &[b"some ", b"bytes"]).unwrap();
        let read = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes, bytes.len() as u64).ok()?;
            let mut kinds = Vec::new();
            while let Some((kind, payload)) = reader.next().unwrap() {
                kinds.push((kind, payload.to_vec()));
            }
            Some((kinds, reader.position()))
        };
        let (records, end) = read(&file).unwrap();
        assert_eq!(records, [(Kind::Head, b"{}".to_vec()), (Kind::Packet, b"some bytes".to_vec())]);
        assert_eq!(end, file.len() as u64);
        for length in whole..file.len() {
            assert_eq!(read(&file[..length]).unwrap().1, whole as u64, "{length}");
            let mut damaged = file.clone();
            damaged[length] ^= 0x40;
            assert_eq!(read(&damaged).unwrap().1, whole as u64, "{length}");
        }
        assert!(read(b"another file").is_none() && read(b"").is_none());
    }

    #[test]
    fn a_segment_must_follow_the_one_before() {
        let first = Segment { number: 1, frames: 240, packets: 240 };
        let second = Segment { number: 2, frames: 250, packets: 250 };
        assert_eq!(Segment::from_bytes(&first.to_bytes()), Some(first));
        assert!(first.follows(&Segment::default()) && second.follows(&first));
        assert!(!second.follows(&Segment::default()) && !first.follows(&first));
        assert!(Segment::from_bytes(&[0; 23]).is_none());
    }
}
