//! Wrong files and options of a job, given to the program: the message, the exit code, one JSON object on stdout, and
//! no file left behind.
//!
//! `system::…` needs the right to mount a file system, or dlib's landmark model; it is ignored by default:
//! `cargo test --release --test bad_input -- --ignored system::`.
#![cfg(feature = "media")]

use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

mod inputs;
mod server;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/small_model.rs"]
mod small_model;

use inputs::{FRAMES, Inputs};

/// A program that runs longer than this counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One job and its expected outcome.
struct Row {
    what: &'static str,
    /// Options that differ from [`GOOD`]; an empty value removes the option.
    change: &'static [(&'static str, &'static str)],
    outcome: Outcome,
}

enum Outcome {
    /// Exit code and part of the message.
    Fails(i32, &'static str),
    /// Part of the message of a usage error, which has exit code 2 and prints nothing on stdout.
    Usage(&'static str),
    /// Number of frames, ranges of frames without a face, and part of a warning (empty: no warning).
    Works { frames: usize, without_face: &'static [(u64, u64)], warns: &'static str },
}

use Outcome::{Fails, Usage, Works};

const ALL: &[(u64, u64)] = &[(0, FRAMES as u64 - 1)];

const fn row(what: &'static str, change: &'static [(&'static str, &'static str)], outcome: Outcome) -> Row {
    Row { what, change, outcome }
}

const fn works(frames: usize) -> Outcome {
    Works { frames, without_face: &[], warns: "" }
}

/// Anchors without any face. The networks do not run, so a row that tests only the reading of files is quick.
const NO_FACE: (&str, &str) = ("--anchors", "no-face.json");

const GOOD: [(&str, &str); 6] = [
    ("--video", "video.mp4"),
    ("--audio", "voice.wav"),
    ("--anchors", "face.json"),
    ("--steps", "1"),
    ("--seed", "1"),
    ("--sync-mode", "cut_off"),
];

const ROWS: &[Row] = &[
    row("a good job", &[], works(FRAMES)),
    // The video file.
    row("missing video", &[("--video", "none.mp4")], Fails(3, "cannot read `none.mp4`: No such file")),
    row(
        "a directory as video",
        &[("--video", "directory")],
        Fails(3, "cannot read `directory`: is a directory"),
    ),
    row(
        "empty video",
        &[("--video", "empty.mp4")],
        Fails(3, "`empty.mp4` is not a media file that can be read: the file is empty"),
    ),
    row(
        "text as video",
        &[("--video", "notes.txt")],
        Fails(3, "`notes.txt` is not a media file that can be read"),
    ),
    row(
        "noise as video",
        &[("--video", "noise.mp4")],
        Fails(3, "`noise.mp4` is not a media file that can be read"),
    ),
    row(
        "a web page as video",
        &[("--video", "web-page.mp4")],
        Fails(3, "`web-page.mp4` is not a media file that can be read"),
    ),
    row("sound as video", &[("--video", "sound.m4a")], Fails(3, "`sound.m4a` has no video stream")),
    row(
        "no frame in a stream",
        &[("--video", "no-frames.mkv")],
        Fails(3, "`no-frames.mkv` is not a media file"),
    ),
    row(
        "no frame in an MP4",
        &[("--video", "no-frames.mp4")],
        Fails(3, "`no-frames.mp4` has no video stream"),
    ),
    row(
        "index cut off",
        &[("--video", "cut-before-its-index.mp4")],
        Fails(3, "a recording that was cut off may have lost its index"),
    ),
    // One of two seconds is left.
    row(
        "second half cut off",
        &[("--video", "cut.mp4"), ("--audio", "two-seconds.wav"), NO_FACE],
        Works { frames: 25, without_face: &[(0, 24)], warns: "`cut.mp4` is truncated" },
    ),
    row(
        "second half cut off",
        &[("--video", "cut.mkv"), ("--audio", "two-seconds.wav"), NO_FACE],
        Works { frames: 25, without_face: &[(0, 24)], warns: "`cut.mkv` is truncated: it ends at 1.00 s" },
    ),
    row(
        "corrupt in the middle",
        &[("--video", "corrupt.mp4"), ("--audio", "two-seconds.wav"), NO_FACE],
        Works { frames: 50, without_face: &[(0, 49)], warns: "damaged packets or frames in `corrupt.mp4`" },
    ),
    row("frames of 8K", &[("--video", "8k.mov")], works(2)),
    row("a pixel as frame", &[("--video", "1x1.mkv")], works(FRAMES)),
    row(
        "a pixel as frame, without a face",
        &[("--video", "1x1.mov"), NO_FACE],
        Works { frames: FRAMES, without_face: ALL, warns: "no face was found in any frame" },
    ),
    row("a frame 2 pixels wide", &[("--video", "2x1000.mkv")], works(FRAMES)),
    // The voice file.
    row("missing voice", &[("--audio", "none.wav")], Fails(3, "cannot read `none.wav`: No such file")),
    row(
        "a directory as voice",
        &[("--audio", "directory")],
        Fails(3, "cannot read `directory`: is a directory"),
    ),
    row(
        "empty voice",
        &[("--audio", "empty.wav")],
        Fails(3, "`empty.wav` is not a media file that can be read: the file is empty"),
    ),
    row(
        "text as voice",
        &[("--audio", "notes.txt")],
        Fails(3, "`notes.txt` is not a media file that can be read"),
    ),
    row(
        "a voice that is half a header",
        &[("--audio", "header-only.wav")],
        Fails(3, "`header-only.wav` is not a media file"),
    ),
    row("a silent video as voice", &[("--audio", "video.mp4")], Fails(3, "`video.mp4` has no audio stream")),
    row(
        "no sample in a stream",
        &[("--audio", "no-samples.wav")],
        Fails(3, "`no-samples.wav` has an audio stream without a single sample"),
    ),
    row("voice cut off", &[("--audio", "cut.wav")], Fails(3, "`cut.wav` is cut short")),
    row("3 ms of voice", &[("--audio", "3ms.wav")], works(1)),
    row(
        "NaN in the voice",
        &[("--audio", "nan.wav")],
        Fails(3, "`nan.wav` has a sample of NaN at second 0.25"),
    ),
    row(
        "infinity in the voice",
        &[("--audio", "infinite.wav")],
        Fails(3, "`infinite.wav` has a sample of inf at second 0.25"),
    ),
    row("a silent voice", &[("--audio", "silent.wav")], works(FRAMES)),
    // Faces.
    row(
        "no face anywhere",
        &[NO_FACE],
        Works { frames: FRAMES, without_face: ALL, warns: "no face was found in any frame" },
    ),
    row(
        "a face in some frames",
        &[("--anchors", "some-faces.json")],
        Works { frames: FRAMES, without_face: &[(2, 4), (8, 8)], warns: "" },
    ),
    row("missing anchors", &[("--anchors", "none.json")], Fails(3, "cannot read `none.json`")),
    row(
        "too few anchors",
        &[("--anchors", "few.json")],
        Fails(3, "cannot use the anchors in `few.json`: it has 2 frames, the job needs 10"),
    ),
    row(
        "anchors that are no numbers",
        &[("--anchors", "nan.json")],
        Fails(3, "cannot use the anchors in `nan.json`"),
    ),
    row(
        "anchors in one place",
        &[("--anchors", "one-place.json")],
        Fails(3, "frame 0: the three points must be finite and not all in one place"),
    ),
    // Options.
    row(
        "guidance too small",
        &[("--guidance-scale", "0.9")],
        Fails(2, "guidance_scale is 0.9: it must be a number between 1 and 10"),
    ),
    row("guidance too large", &[("--guidance-scale", "10.5")], Fails(2, "guidance_scale is 10.5")),
    row("guidance that is no number", &[("--guidance-scale", "NaN")], Fails(2, "guidance_scale is NaN")),
    row("no steps", &[("--steps", "0")], Fails(2, "steps is 0: it must be a whole number between 1 and 999")),
    row("too many steps", &[("--steps", "1000")], Fails(2, "steps is 1000")),
    row("negative steps", &[("--steps", "-1")], Usage("--steps")),
    row("negative seed", &[("--seed", "-1")], Usage("--seed")),
    row("too large a seed", &[("--seed", "18446744073709551616")], Usage("--seed")),
    row("unknown mode", &[("--sync-mode", ""), ("--loop-mode", "backwards")], Usage("`pingpong` or `loop`")),
    row("unknown mode of sync.so", &[("--sync-mode", "backwards")], Usage("cut_off")),
    // The output.
    row(
        "output in no directory",
        &[("--out", "nowhere/out.mp4")],
        Fails(3, "`nowhere/out.mp4`: its directory does not exist"),
    ),
    row(
        "output is a directory",
        &[("--out", "directory")],
        Fails(3, "cannot write `directory`: is a directory"),
    ),
    row(
        "output is the video",
        &[("--out", "./video.mp4")],
        Fails(3, "the output `video.mp4` is also an input"),
    ),
    row(
        "output is the voice",
        &[("--out", "voice.wav")],
        Fails(3, "the output `voice.wav` is also an input"),
    ),
    row(
        "output is the anchors",
        &[("--out", "face.json")],
        Fails(3, "the output `face.json` is also an input"),
    ),
];

/// Options of every job with a URL.
const DOWNLOAD_LIMITS: [(&str, &str); 2] = [("--max-download", "1MB"), ("--download-timeout", "2")];

/// Paths on the server of `server.rs`, and part of each message.
const URLS: &[(&str, &str)] = &[
    ("none.mp4", "404"),
    ("page.mp4", "text/html"),
    ("round.mp4", "redirect"),
    ("endless.mp4", "1000000 are allowed"),
    ("huge.mp4", "1000000 are allowed"),
    ("slow.mp4", "2 s"),
    ("silent.mp4", "2 s"),
    ("short.mp4", "5000"),
];

/// Directories of one test: jobs run in that of the inputs.
struct Place {
    inputs: Inputs,
    model: PathBuf,
    temporary: TempDir,
    output: TempDir,
}

impl Place {
    /// With some of the made videos.
    fn with(videos: &[&str]) -> Self {
        Self::new(|name| videos.contains(&name))
    }

    /// With the made videos that `wanted` selects.
    fn new(wanted: impl Fn(&str) -> bool) -> Self {
        let directory = || tempfile::tempdir().expect("a temporary directory");
        Self {
            inputs: Inputs::make(wanted),
            model: small_model::directory(),
            temporary: directory(),
            output: directory(),
        }
    }

    /// Arguments of [`GOOD`] with changes. The output goes to its own directory unless a change names another.
    fn args(&self, changes: &[(&str, &str)]) -> Vec<String> {
        let output = self.output.path().join("out.mp4").display().to_string();
        let model = self.model.display().to_string();
        let mut options: Vec<(&str, &str)> = GOOD.to_vec();
        options.extend([("--model", model.as_str()), ("--out", output.as_str())]);
        for &(name, value) in changes {
            options.retain(|(other, _)| *other != name);
            options.push((name, value));
        }
        let given = options.into_iter().filter(|(_, value)| !value.is_empty());
        // Joined by `=`, so that `-1` is not read as an option.
        let given = given.map(|(name, value)| format!("{name}={value}"));
        ["sync".into(), "--json".into()].into_iter().chain(given).collect()
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.inputs.path())
            .env("TMPDIR", self.temporary.path())
            .env("HF_HOME", self.inputs.path().join("no-models"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_HUB_CACHE")
            .env_remove("RUST_LOG");
        command
    }

    fn run(&self, changes: &[(&str, &str)]) -> Ran {
        let mut command = self.command(cargo_bin("latentsync"));
        Ran::of(command.args(self.args(changes)))
    }

    /// Paths of all files in the directories that a job may write to.
    fn names(&self) -> Vec<PathBuf> {
        let directories = [self.inputs.path(), self.temporary.path(), self.output.path()];
        let mut names: Vec<PathBuf> = directories.into_iter().flat_map(names).collect();
        names.sort();
        names
    }

    /// Runs a row and removes its output.
    fn check(&self, row: &Row) {
        // A row that failed may have left its output.
        let _ = fs::remove_file(self.output.path().join("out.mp4"));
        let before = self.names();
        let ran = self.run(row.change);
        let what = row.what;
        match &row.outcome {
            Fails(code, message) => {
                ran.fails(what, *code, message);
                let error = &ran.json(what)["error"];
                assert_eq!(error["exit_code"], *code, "{what}: {ran:#?}");
            }
            Usage(message) => {
                ran.fails(what, 2, message);
                assert_eq!(ran.stdout, "", "{what}");
            }
            Works { frames, without_face, warns } => {
                assert_eq!(ran.code, Some(0), "{what}: {ran:#?}");
                let report = ran.json(what);
                assert_eq!(report["frames"], *frames, "{what}: {report}");
                let ranges = report["frames_without_face"].as_array().expect("an array").iter();
                let ranges: Vec<_> = ranges.map(|r| (r["first"].as_u64(), r["last"].as_u64())).collect();
                let expected: Vec<_> = without_face.iter().map(|&(a, b)| (Some(a), Some(b))).collect();
                assert_eq!(ranges, expected, "{what}: {report}");
                let warnings = report["warnings"].to_string();
                assert_eq!(warnings == "[]", warns.is_empty(), "{what}: {report}");
                assert!(warnings.contains(warns), "{what}: expected `{warns}` in {report}");
                let output = self.output.path().join("out.mp4");
                assert!(fs::metadata(&output).is_ok_and(|file| file.len() > 500), "{what}: no output");
                fs::remove_file(output).expect("a removed file");
            }
        }
        assert_eq!(self.names(), before, "{what}: a file was left behind or removed");
    }
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Runs a command to its end. Kills it and panics after [`TIMEOUT`].
    fn of(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the program starts");
        let begin = Instant::now();
        // The output of a row fits into the buffer of a pipe.
        while child.try_wait().expect("a child").is_none() {
            if begin.elapsed() > TIMEOUT {
                child.kill().expect("a killed child");
                panic!("hangs: {command:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Self::from(child.wait_with_output().expect("its output"))
    }

    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
        }
    }

    fn fails(&self, what: &str, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{what}: {self:#?}");
        assert!(self.stderr.contains(message), "{what}: expected `{message}` in {self:#?}");
    }

    /// The one JSON value on stdout.
    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{what}: {error}: {self:#?}"))
    }
}

#[test]
fn every_row_has_its_outcome() {
    let place = Place::new(|_| true);
    let mut failed = Vec::new();
    for row in ROWS {
        // The panic prints the reason; the remaining rows still run.
        if catch_unwind(AssertUnwindSafe(|| place.check(row))).is_err() {
            failed.push(row.what);
        }
    }
    assert_eq!(failed, [] as [&str; 0]);
}

/// Video and voice may come from a pipe; a pipe without a writer times out, and anchors must be a regular file.
#[cfg(unix)]
#[test]
fn a_pipe_as_input() {
    let place = Place::with(&["video.mp4"]);
    programs::run("mkfifo", &[place.inputs.path().join("pipe").to_str().expect("UTF-8")]);
    let before = place.names();
    // The pipe has no writer.
    for (option, message) in [
        ("--video", "cannot fetch pipe: not complete after 2 s"),
        ("--audio", "cannot fetch pipe: not complete after 2 s"),
        ("--anchors", "cannot use the anchors in `pipe`: not a regular file"),
    ] {
        let ran = place.run(&[(option, "pipe"), ("--download-timeout", "2")]);
        ran.fails(option, 3, message);
        assert_eq!(ran.json(option)["error"]["exit_code"], 3, "{ran:#?}");
        assert_eq!(place.names(), before, "{option}");
    }
    for (option, file) in [("--video", "video.mp4"), ("--audio", "voice.wav")] {
        let [from, to] = [file, "pipe"].map(|name| place.inputs.path().join(name));
        let writer = std::thread::spawn(move || fs::write(to, fs::read(from).expect("an input")));
        let ran = place.run(&[(option, "pipe")]);
        assert_eq!(ran.code, Some(0), "{option}: {ran:#?}");
        writer.join().expect("a writer").expect("a reader");
        fs::remove_file(place.output.path().join("out.mp4")).expect("an output");
        assert_eq!(place.names(), before, "{option}");
    }
}

/// An output path that is a link to an input is refused: the job would overwrite the input.
#[cfg(unix)]
#[test]
fn an_output_that_is_a_link_to_an_input() {
    let place = Place::with(&["video.mp4"]);
    let file = |name: &str| place.inputs.path().join(name);
    std::os::unix::fs::symlink("voice.wav", file("symbolic.wav")).expect("a link");
    fs::hard_link(file("voice.wav"), file("hard.wav")).expect("a link");
    let (before, voice) = (place.names(), fs::read(file("voice.wav")).expect("a voice"));
    for link in ["symbolic.wav", "hard.wav"] {
        for changes in
            [[("--audio", "voice.wav"), ("--out", link)], [("--audio", link), ("--out", "voice.wav")]]
        {
            let ran = place.run(&changes);
            ran.fails(link, 3, "is also an input");
            assert_eq!(ran.json(link)["error"]["exit_code"], 3, "{ran:#?}");
        }
    }
    assert_eq!(place.names(), before);
    assert_eq!(fs::read(file("voice.wav")).expect("a voice"), voice);
}

#[cfg(unix)]
mod permissions {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    use super::*;

    const NOBODY: u32 = 65_534;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }

    /// Runs a job as a user without privileges: `nobody` if the test runs as root.
    fn run_unprivileged(place: &Place, changes: &[(&str, &str)]) -> Ran {
        set(place.inputs.path(), 0o755);
        set(place.temporary.path(), 0o777);
        let is_root = fs::read(place.inputs.path().join("secret")).is_ok();
        let mut command = place.command(place.inputs.path().join("latentsync"));
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        Ran::of(command.args(place.args(changes)))
    }

    /// Copies a directory of files and directories.
    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).expect("a directory");
        set(to, 0o755);
        for entry in fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(from, &to).expect("a copy");
                set(&to, 0o644);
            }
        }
    }

    /// With copies of the program and the model that every user can reach, and a file that only root can read.
    fn place() -> Place {
        let mut place = Place::with(&["video.mp4"]);
        let model = place.inputs.path().join("model");
        copy(&place.model, &model);
        place.model = model;
        fs::copy(cargo_bin("latentsync"), place.inputs.path().join("latentsync")).expect("a copy");
        place.inputs.write("secret", b"[]");
        set(&place.inputs.path().join("secret"), 0);
        place
    }

    #[test]
    fn an_input_that_may_not_be_read() {
        let place = place();
        set(place.output.path(), 0o777);
        let before = place.names();
        for option in ["--video", "--audio", "--anchors"] {
            let ran = run_unprivileged(&place, &[(option, "secret")]);
            ran.fails(option, 3, "cannot read `secret`: Permission denied");
            assert_eq!(ran.json(option)["error"]["exit_code"], 3, "{ran:#?}");
        }
        assert_eq!(place.names(), before);
    }

    #[test]
    fn an_output_directory_that_may_not_be_written() {
        let place = place();
        set(place.output.path(), 0o555);
        let before = place.names();
        for changes in [&[][..], &[("--sync-mode", "bounce"), ("--audio", "two-seconds.wav")]] {
            let ran = run_unprivileged(&place, changes);
            ran.fails("not writable", 3, "out.mp4`: Permission denied");
            assert_eq!(ran.json("not writable")["error"]["exit_code"], 3, "{ran:#?}");
        }
        assert_eq!(place.names(), before);
    }
}

mod system {
    use super::*;

    /// As the row "no face anywhere", but found by the detector instead of read from an anchor file.
    #[test]
    #[ignore = "needs dlib's landmark model"]
    fn no_face_for_the_detector() {
        let place = Place::with(&["video.mp4"]);
        let ran = place.run(&[("--anchors", "")]);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        let report = ran.json("no face for the detector");
        let ranges = serde_json::json!([{"first": 0, "last": FRAMES - 1}]);
        assert_eq!(report["frames_without_face"], ranges, "{report}");
    }

    /// Runs a job whose output is on a disk of 16 KiB, in a mount namespace of its own. Returns the result and the
    /// names of the files that are left on the disk.
    #[cfg(target_os = "linux")]
    fn run_on_a_tiny_disk(place: &Place, changes: &[(&str, &str)]) -> (Ran, String) {
        const SCRIPT: &str = r#"directory=$1; list=$2; shift 2
mount -t tmpfs -o size=16k tmpfs "$directory" || exit 99
"$@"; code=$?
ls -A "$directory" > "$list"
exit $code"#;
        let list = place.temporary.path().join("list");
        let unshare = |options: &[&str], program: &OsStr| {
            let mut command = place.command("unshare");
            command
                .args(options)
                .args(["sh", "-c", SCRIPT, "sh"])
                .arg(place.output.path())
                .arg(&list)
                .arg(program);
            command
        };
        let may_mount = |options: &&&[&str]| {
            unshare(options, OsStr::new("true")).output().is_ok_and(|output| output.status.success())
        };
        // As root, and as a user who may create user namespaces.
        let options: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
        let options = options.iter().find(may_mount).expect("the right to mount a file system");
        let ran = Ran::of(unshare(options, cargo_bin("latentsync").as_os_str()).args(place.args(changes)));
        let left = fs::read_to_string(&list).expect("a list");
        fs::remove_file(list).expect("a removed list");
        (ran, left)
    }

    /// The disk fills up while the output is written; and it is too small for the frames that are kept for a second
    /// pass.
    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "needs the right to mount a file system"]
    fn a_full_disk() {
        let place = Place::with(&["video.mp4", "long.mp4"]);
        let before = place.names();
        let voice = ("--audio", "two-seconds.wav");
        for (changes, message) in [
            ([("--video", "long.mp4"), voice, NO_FACE, ("--sync-mode", "cut_off")], "no space left for `"),
            // The space for kept frames is checked before the job starts.
            ([("--video", "video.mp4"), voice, NO_FACE, ("--sync-mode", "bounce")], "not enough space at `"),
        ] {
            let (ran, left) = run_on_a_tiny_disk(&place, &changes);
            ran.fails("full disk", 3, message);
            assert_eq!(ran.json("full disk")["error"]["exit_code"], 3, "{ran:#?}");
            assert_eq!(left, "", "left on the disk");
            assert_eq!(place.names(), before);
        }
    }
}

/// A limit on the size of files has the effect of a full disk, and needs no privileges.
#[cfg(unix)]
#[test]
fn an_output_beyond_the_file_size_limit() {
    let place = Place::with(&["long.mp4"]);
    let before = place.names();
    let changes = [("--video", "long.mp4"), ("--audio", "two-seconds.wav"), NO_FACE];
    let mut command = place.command("sh");
    command.args(["-c", r#"trap "" XFSZ; ulimit -f 32; exec "$@""#, "sh"]).arg(cargo_bin("latentsync"));
    let ran = Ran::of(command.args(place.args(&changes)));
    ran.fails("file size limit", 3, "File too large");
    assert_eq!(ran.json("file size limit")["error"]["exit_code"], 3, "{ran:#?}");
    assert_eq!(place.names(), before);
}

#[test]
fn a_bad_url() {
    let place = Place::with(&["video.mp4"]);
    let server = server::start();
    let before = place.names();
    for (name, message) in URLS {
        for option in ["--video", "--audio"] {
            let url = format!("{server}/{name}");
            let begin = Instant::now();
            let ran = place.run(&[&[(option, url.as_str())], &DOWNLOAD_LIMITS[..]].concat());
            ran.fails(name, 3, message);
            assert_eq!(ran.json(name)["error"]["exit_code"], 3, "{ran:#?}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{name} took {:?}", begin.elapsed());
            assert_eq!(place.names(), before, "{name}");
        }
    }
}
