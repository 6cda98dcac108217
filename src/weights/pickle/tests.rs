//! Pickles good, bad and hostile.

use super::*;
use crate::weights::pt;

fn weight() -> pt::Pickled<'static> {
    pt::Pickled {
        key: "conv_in.weight",
        class: "HalfStorage",
        storage: ("0", 12),
        offset: 4,
        shape: &[2, 4],
        strides: &[4, 1],
    }
}

#[test]
fn reads_every_place_of_the_state_dict() {
    for name in [None, Some("state_dict"), Some("model_state_dict")] {
        let contents = read(&pt::pickle(name, &[weight()])).unwrap();
        let view = TensorView {
            dtype: DType::F16,
            storage: "0".into(),
            storage_len: 12,
            offset: 4,
            shape: vec![2, 4],
            strides: vec![4, 1],
        };
        assert_eq!(contents.tensors, [("conv_in.weight".to_owned(), view)], "{name:?}");
    }
}

#[test]
fn code_is_refused_by_name() {
    let cases: [(&[u8], &str); 8] = [
        // pickle.dumps of an object whose __reduce__ gives os.system, in protocols 0, 2 and 4
        (b"cposix\nsystem\np0\n(Vtouch pwned\np1\ntp2\nRp3\n.", "posix.system"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01cposix\nsystem\nq\x02X\x0b\x00\x00\x00touch pwnedq\x03\x85q\x04Rq\x05s.", "posix.system"),
        (b"\x80\x04\x95&\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x0btouch pwned\x94\x85\x94R\x94.", "posix.system"),
        (b"(S'touch pwned'\nios\nsystem\n.", "os.system"),
        (b"(ios\nsystem\n.", "os.system"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "builtins.eval"),
        (b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n.", "torch._utils._rebuild_device_tensor_from_numpy"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
    ];
    for (bytes, name) in cases {
        match read(bytes) {
            Err(PickleError::Code(refused)) => assert_eq!(refused, name),
            // An instruction before the name that weights never need is as good a reason.
            Err(PickleError::Malformed(problem)) => {
                assert!(problem.contains("0x53"), "{name}: {problem}")
            }
            Ok(_) => panic!("{name} was accepted"),
        }
    }
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let Err(PickleError::Code(name)) = read(b"cos\x1b[2J\nsystem\n.") else { panic!("accepted") };
    assert!(!name.contains('\x1b'), "{name:?}");
}

#[test]
fn cut_or_altered_anywhere_it_never_panics() {
    let good = pt::pickle(Some("state_dict"), &[weight(), pt::Pickled { key: "bias", ..weight() }]);
    for end in 0..good.len() {
        assert!(read(&good[..end]).is_err(), "cut at {end}");
    }
    let mut accepted = 0;
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut bad = good.clone();
            bad[at] = byte;
            accepted += usize::from(read(&bad).is_ok());
        }
    }
    assert!(accepted > good.len(), "at least the unaltered ones are read");
}

#[test]
fn nesting_and_repetition_stay_cheap() {
    // One million nested tuples, and references that would double sixty times if they were copied.
    let mut deep = vec![0x80, 2, b')'];
    deep.extend(std::iter::repeat_n(0x85, 1_000_000));
    deep.push(b'.');
    assert!(read(&deep).is_err());
    let mut wide = vec![0x80, 2, b')', b'q', 0];
    for _ in 0..60 {
        wide.extend(b"h\0h\0\x86q\0");
    }
    wide.push(b'.');
    assert!(read(&wide).is_err());
}

/// Two tuples of a million numbers, which a thousand tensors have as their shapes: a few MB that would take 16 GB.
#[test]
fn long_shapes_and_names_are_refused_before_they_are_copied() {
    let mut bytes = b"\x80\x02(".to_vec();
    bytes.extend(std::iter::repeat_n(b"K\x01", 1_000_000).flatten());
    bytes.extend(b"tq\x00");
    bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n");
    bytes.extend(b"X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\x00h\x00h\x00tR.");
    let Err(PickleError::Malformed(problem)) = read(&bytes) else { panic!("accepted") };
    assert_eq!(problem, "its pickle has a tensor of 1000000 dimensions");

    let name = "0".repeat(65);
    let long = pt::pickle(None, &[pt::Pickled { storage: (&name, 12), ..weight() }]);
    let Err(PickleError::Malformed(problem)) = read(&long) else { panic!("accepted") };
    assert_eq!(problem, "its pickle has a storage with a name of 65 bytes");
}

#[test]
fn what_is_no_dictionary_of_tensors_is_said() {
    let cases: [(&[u8], &str); 5] = [
        (b"\x80\x02K\x01.", "no dictionary"),
        (b"\x80\x02}X\x01\0\0\0aK\x01s.", "`a` is not a tensor"),
        (b"\x80\x02K\x01h\x09.", "never stored"),
        (b"\x80\x02\x8a\xff", "ends in the middle"),
        (b"", "ends in the middle"),
    ];
    for (bytes, expected) in cases {
        let Err(PickleError::Malformed(problem)) = read(bytes) else { panic!("{expected}") };
        assert!(problem.contains(expected), "{problem} lacks {expected}");
    }
    let twice = pt::pickle(None, &[weight(), weight()]);
    let Err(PickleError::Malformed(problem)) = read(&twice) else { panic!("accepted") };
    assert!(problem.contains("two tensors called `conv_in.weight`"), "{problem}");
}
