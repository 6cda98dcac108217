//! Downloads: complete, resumed, damaged, refused, offline.

use std::fs;
use std::path::{Path, PathBuf};

use latentsync::system;
use latentsync::weights::{DownloadCause, Error, Result};
use latentsync::weights::{
    FileState, HubSettings, InsightFaceLicence, LocatedFile, Manifest, Package, Progress, pull,
    pull_manifest, verify_manifest,
};
use tempfile::TempDir;

use crate::hub::{Behaviour, COMMIT, Hub, manifest, sha256};

const SMALL: &[u8] = b"{}";

/// A hub with two files, a manifest of them and an empty cache.
struct Setup {
    hub: Hub,
    manifest: Manifest,
    home: TempDir,
    large: Vec<u8>,
}

impl Setup {
    fn new() -> Self {
        Self::at_revision(COMMIT)
    }

    fn at_revision(revision: &str) -> Self {
        let large: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let hub = Hub::start(Behaviour {
            files: [
                ("owner/name/deep/large.bin".to_owned(), large.clone()),
                ("owner/name/config.json".to_owned(), SMALL.to_vec()),
            ]
            .into(),
            ..Behaviour::default()
        });
        Self { hub, manifest: manifest(&large, SMALL, revision), home: tempfile::tempdir().unwrap(), large }
    }

    fn settings(&self) -> HubSettings {
        self.hub.settings(self.home.path())
    }

    fn pull(&self) -> Result<Vec<LocatedFile>> {
        pull_manifest(&self.manifest, &self.settings(), &mut |_| Ok(()))
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("hub/models--owner--name")
    }

    fn incomplete(&self) -> PathBuf {
        self.repository().join("blobs").join(format!("{}.incomplete", sha256(&self.large)))
    }

    fn ranges(&self) -> Vec<Option<String>> {
        let large = self.hub.downloads().into_iter().filter(|request| request.path.ends_with("large.bin"));
        large.map(|request| request.range).collect()
    }

    fn assert_pulled(&self, files: &[LocatedFile]) {
        assert_eq!(fs::read(&files[0].path).unwrap(), self.large);
        assert_eq!(fs::read(&files[1].path).unwrap(), SMALL);
        assert!(!self.incomplete().exists(), "the partial file is gone");
    }
}

#[test]
fn a_download_fills_the_cache_in_the_layout_of_hugging_face() {
    let setup = Setup::new();
    let mut seen = Vec::new();
    let mut note = |progress: Progress<'_>| {
        seen.push((progress.file.to_owned(), progress.done, progress.total));
        Ok(())
    };
    let files = pull_manifest(&setup.manifest, &setup.settings(), &mut note).unwrap();
    setup.assert_pulled(&files);
    let repository = setup.repository();
    assert_eq!(files[0].path, repository.join("snapshots").join(COMMIT).join("deep/large.bin"));
    let blob = repository.join("blobs").join(sha256(&setup.large));
    assert_eq!(files[0].path.canonicalize().unwrap(), blob.canonicalize().unwrap());
    assert!(seen.contains(&("deep/large.bin".to_owned(), 300_000, 300_000)), "{seen:?}");
    assert!(setup.hub.downloads().iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_test")));

    let before = setup.hub.requests();
    setup.assert_pulled(&setup.pull().unwrap());
    assert_eq!(setup.hub.requests(), before, "what is there is not asked for again");
}

#[test]
fn a_branch_is_resolved_by_its_reference() {
    let setup = Setup::at_revision("main");
    let files = setup.pull().unwrap();
    setup.assert_pulled(&files);
    assert_eq!(fs::read_to_string(setup.repository().join("refs/main")).unwrap(), COMMIT);
    assert!(files[0].path.ends_with(Path::new("snapshots").join(COMMIT).join("deep/large.bin")));
}

#[test]
fn a_download_resumes_after_a_lost_connection_in_the_same_run() {
    let setup = Setup::new();
    setup.hub.change(|hub| hub.cuts = [100_000, 50_000].into());
    setup.assert_pulled(&setup.pull().unwrap());
    let ranges = setup.ranges();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[2].as_deref(), Some("bytes=150000-299999"));
}

#[test]
fn a_failed_download_is_resumed_by_the_next_run() {
    let setup = Setup::new();
    setup.hub.change(|hub| hub.cuts = [100_000, 0, 0, 0].into());
    let error = setup.pull().unwrap_err();
    assert!(
        matches!(&error, Error::Download { cause, .. } if matches!(**cause, DownloadCause::Connection { .. })),
        "{error}"
    );
    let state = verify_manifest(&setup.manifest, &setup.settings(), &mut |_| Ok(())).unwrap();
    assert_eq!(state[0].state, FileState::Partial { bytes: 100_000 });

    setup.assert_pulled(&setup.pull().unwrap());
    assert_eq!(setup.ranges().last().unwrap().as_deref(), Some("bytes=100000-299999"));
}

#[test]
fn a_cancelled_download_keeps_the_received_part() {
    let setup = Setup::new();
    setup.hub.change(|hub| hub.cuts = [100_000, 0].into());
    let mut stop = |progress: Progress<'_>| match progress.done {
        0 => Ok(()),
        _ => Err(system::Error::Interrupted.into()),
    };
    let stopped = pull_manifest(&setup.manifest, &setup.settings(), &mut stop);
    assert!(matches!(stopped, Err(Error::System(system::Error::Interrupted))), "{stopped:?}");
    assert!(fs::metadata(setup.incomplete()).unwrap().len() > 0);
    setup.assert_pulled(&setup.pull().unwrap());
}

#[test]
fn a_download_restarts_if_the_server_does_not_support_ranges() {
    let setup = Setup::new();
    fs::create_dir_all(setup.incomplete().parent().unwrap()).unwrap();
    fs::write(setup.incomplete(), &setup.large[..1000]).unwrap();
    setup.hub.change(|hub| hub.ignores_ranges = true);
    setup.assert_pulled(&setup.pull().unwrap());
    assert_eq!(setup.ranges(), [Some("bytes=1000-299999".to_owned()), None]);
}

#[test]
fn a_damaged_partial_download_is_fetched_again() {
    let setup = Setup::new();
    fs::create_dir_all(setup.incomplete().parent().unwrap()).unwrap();
    fs::write(setup.incomplete(), [7; 1000]).unwrap();
    setup.assert_pulled(&setup.pull().unwrap());
    assert_eq!(setup.ranges(), [Some("bytes=1000-299999".to_owned()), None]);
}

#[test]
fn a_damaged_download_is_removed_and_reported() {
    let setup = Setup::new();
    setup.hub.change(|hub| {
        hub.files.get_mut("owner/name/deep/large.bin").unwrap()[17] ^= 1;
    });
    let error = setup.pull().unwrap_err();
    assert!(matches!(&error, Error::DamagedDownload { model, .. } if model == "test-model"), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("`deep/large.bin` from owner/name arrived damaged and was removed"),
        "{message}"
    );
    assert!(message.contains(&format!("expected {}", sha256(&setup.large))), "{message}");
    assert!(!setup.incomplete().exists());
    assert_eq!(fs::read_dir(setup.repository().join("blobs")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_file_of_another_size_is_removed_and_reported() {
    for change in [-1, 1] {
        let setup = Setup::new();
        let size = setup.large.len().checked_add_signed(change).unwrap();
        setup.hub.change(|hub| hub.files.get_mut("owner/name/deep/large.bin").unwrap().resize(size, 0));
        assert!(setup.pull().is_err(), "{size} bytes");

        let setup = Setup::new();
        setup.hub.change(|hub| hub.files.get_mut("owner/name/config.json").unwrap().push(b'\n'));
        let message = setup.pull().unwrap_err().to_string();
        assert!(message.contains("`config.json`") && message.contains("3 bytes, expected 2"), "{message}");
    }
}

#[test]
fn a_damaged_file_in_the_cache_is_found_and_replaced() {
    let setup = Setup::new();
    let path = setup.pull().unwrap()[0].path.clone();
    let mut bytes = setup.large.clone();
    bytes[0] ^= 1;
    // A change within the resolution of file times would not be detected.
    std::thread::sleep(std::time::Duration::from_millis(50));
    fs::write(&path, &bytes).unwrap();
    let states = verify_manifest(&setup.manifest, &setup.settings(), &mut |_| Ok(())).unwrap();
    assert!(matches!(&states[0].state, FileState::Corrupt { reason, .. } if reason.contains("SHA-256")));
    assert!(matches!(&states[1].state, FileState::Present { .. }));
    setup.assert_pulled(&setup.pull().unwrap());

    fs::write(&path, &bytes[..5]).unwrap();
    let states = verify_manifest(&setup.manifest, &setup.settings(), &mut |_| Ok(())).unwrap();
    assert!(
        matches!(&states[0].state, FileState::Corrupt { reason, .. } if reason == "5 bytes, expected 300000")
    );
    setup.assert_pulled(&setup.pull().unwrap());
}

#[test]
fn a_verified_file_is_not_read_again() {
    let setup = Setup::new();
    setup.pull().unwrap();
    let untouched = |progress: Progress<'_>| match progress.done {
        0 => Ok(()),
        _ => Err(system::Error::Interrupted.into()),
    };
    setup.assert_pulled(&pull_manifest(&setup.manifest, &setup.settings(), &mut { untouched }).unwrap());
    let verified = verify_manifest(&setup.manifest, &setup.settings(), &mut { untouched });
    assert!(
        matches!(verified, Err(Error::System(system::Error::Interrupted))),
        "a verification reads it all"
    );
}

#[test]
fn a_refusal_has_its_cause() {
    for status in [404, 401, 403] {
        let setup = Setup::new();
        let expected = match status {
            404 => DownloadCause::NotFound { endpoint: setup.hub.endpoint.clone() },
            _ => DownloadCause::AccessDenied,
        };
        setup.hub.change(|hub| hub.refuses_with = Some(status));
        let error = setup.pull().unwrap_err();
        assert!(error.to_string().contains("cannot download `deep/large.bin` from owner/name"), "{error}");
        assert!(
            matches!(&error, Error::Download { cause, .. } if **cause == expected),
            "{status}: {error:?}"
        );
    }
}

#[test]
fn an_unreachable_server_is_named_with_its_address() {
    let mut setup = Setup::new();
    // A port without a listener.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    setup.hub.endpoint = format!("http://{free}");
    let error = setup.pull().unwrap_err();
    let expected =
        DownloadCause::Connection { endpoint: setup.hub.endpoint.clone(), model: "test-model".to_owned() };
    assert!(matches!(&error, Error::Download { cause, .. } if **cause == expected), "{error:?}");
}

#[test]
fn offline_the_cache_is_used_and_no_request_is_sent() {
    let setup = Setup::new();
    let offline = HubSettings { offline: true, ..setup.settings() };
    let error = pull_manifest(&setup.manifest, &offline, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(&error, Error::Offline { model } if model == "test-model"), "{error}");
    assert_eq!(setup.hub.requests(), 0);

    setup.pull().unwrap();
    let before = setup.hub.requests();
    setup.assert_pulled(&pull_manifest(&setup.manifest, &offline, &mut |_| Ok(())).unwrap());
    assert_eq!(setup.hub.requests(), before);
}

#[test]
fn a_second_download_of_the_same_file_is_refused() {
    let setup = Setup::new();
    let locks = setup.home.path().join("hub/.locks/models--owner--name");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", sha256(&setup.large)))).unwrap();
    lock.lock().unwrap();
    assert!(matches!(setup.pull(), Err(Error::DownloadBusy { .. })));
    drop(lock);
    setup.assert_pulled(&setup.pull().unwrap());
}

#[test]
fn a_download_larger_than_the_disk_is_not_started() {
    let setup = Setup::new();
    let mut manifest = setup.manifest.clone();
    manifest.files[0].bytes = 1 << 60;
    let error = pull_manifest(&manifest, &setup.settings(), &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::DiskFull { needed, .. } if needed >= 1 << 60), "{error}");
    assert_eq!(setup.hub.requests(), 0);
}

#[test]
fn insightface_needs_its_licence_accepted() {
    let setup = Setup::new();
    let pull = |licence| pull(Package::InsightFace, licence, &setup.settings(), &mut |_| Ok(()));
    let error = pull(InsightFaceLicence::NotAccepted).unwrap_err();
    assert!(matches!(error, Error::LicenceNotAccepted));
    assert_eq!(setup.hub.requests(), 0);
    // With the licence accepted a request is sent; this hub does not have the files.
    assert!(matches!(pull(InsightFaceLicence::Accepted), Err(Error::Download { .. })));
}

#[test]
fn a_download_inside_another_runtime_does_not_panic() {
    let setup = Setup::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { setup.assert_pulled(&setup.pull().unwrap()) });
}
