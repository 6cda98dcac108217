//! Records of a journal: kind, length, payload, and a checksum of all three. Integers are little-endian.

use std::io::{self, BufRead, Write};

use ffmpeg_next::{Packet, packet};
use sha2::{Digest, Sha256};

/// Magic bytes of the record format.
pub(super) const MAGIC: &[u8; 8] = b"LSRESUM1";
const CHECKSUM: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Head of the journal as JSON.
    Head = 1,
    /// Name of a job's temporary file.
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

/// A complete segment: its number, from 1, and the totals up to its end.
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
        // Each frame is one packet.
        self.number == before.number + 1 && self.frames > before.frames && self.packets == self.frames
    }
}

/// Writes a record with the concatenation of `parts` as payload.
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

/// Reader of records, up to the first incomplete one.
pub(super) struct Reader<R> {
    from: R,
    position: u64,
    length: u64,
    payload: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// `from`: at the beginning of the file; `length`: size of the file in bytes.
    pub(super) fn new(mut from: R, length: u64) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { from, position: MAGIC.len() as u64, length, payload: Vec::new() })
    }

    /// End of the last record that was read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next complete record; `None` at the end and at invalid data. Only I/O errors are returned.
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

/// Serialises timestamps and flags of a packet, followed by its data. Timestamps are frame numbers.
pub(super) fn of_packet(packet: &Packet) -> ([u8; 20], &[u8]) {
    let mut head = [0; 20];
    head[..8].copy_from_slice(&packet.pts().unwrap_or(0).to_le_bytes());
    head[8..16].copy_from_slice(&packet.dts().unwrap_or(0).to_le_bytes());
    // SAFETY: reads a plain field of a valid packet.
    let flags = unsafe { (*packet::Ref::as_ptr(packet)).flags };
    head[16..].copy_from_slice(&flags.to_le_bytes());
    (head, packet.data().unwrap_or_default())
}

/// Inverse of [`of_packet`]. `None` if the payload is too short.
pub(super) fn to_packet(payload: &[u8]) -> Option<Packet> {
    let (pts, rest) = payload.split_first_chunk()?;
    let (dts, rest) = rest.split_first_chunk()?;
    let (flags, data) = rest.split_first_chunk()?;
    let mut packet = Packet::copy(data);
    packet.set_pts(Some(i64::from_le_bytes(*pts)));
    packet.set_dts(Some(i64::from_le_bytes(*dts)));
    // All flags, including those that the wrapper does not expose: some containers store them.
    // SAFETY: writes a plain field of a valid packet.
    unsafe { (*packet::Mut::as_mut_ptr(&mut packet)).flags = i32::from_le_bytes(*flags) };
    packet.set_duration(1);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_up_to_the_first_incomplete_one() {
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
    fn a_segment_must_follow_its_predecessor() {
        let first = Segment { number: 1, frames: 240, packets: 240 };
        let second = Segment { number: 2, frames: 250, packets: 250 };
        assert_eq!(Segment::from_bytes(&first.to_bytes()), Some(first));
        assert!(first.follows(&Segment::default()) && second.follows(&first));
        assert!(!second.follows(&Segment::default()) && !first.follows(&first));
        assert!(Segment::from_bytes(&[0; 23]).is_none());
    }
}
