//! Whatever can be wrong with a job's files and options, through the program: what it says, its exit code, one
//! JSON object, and nothing left behind.
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

#[path = "bad_input/inputs.rs"]
mod inputs;
#[path = "bad_input/server.rs"]
mod server;

use inputs::{FRAMES, Inputs};

/// No row may take longer: it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// One job with something wrong, and what must come of it.
struct Row {
    what: &'static str,
    /// What differs from [`GOOD`]; an empty value takes an option away.
    change: &'static [(&'static str, &'static str)],
    outcome: Outcome,
}

enum Outcome {
    /// An exit code and a part of the message.
    Fails(i32, &'static str),
    /// The same, found while the arguments are read, where nothing is on stdout yet.
    Usage(&'static str),
    /// How many frames there are, which of them without a face, and a part of a warning (none where empty).
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

/// Without a face nothing is computed: such rows look at the reading of the files alone, and take no time.
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
    row("nothing", &[], works(FRAMES)),
    // The video's file.
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
    // Of two seconds, the first is there.
    row(
        "second half cut off",
        &[("--video", "cut.mp4"), ("--audio", "two-seconds.wav"), NO_FACE],
        Works { frames: 25, without_face: &[(0, 24)], warns: "`cut.mp4` is cut off" },
    ),
    row(
        "second half cut off",
        &[("--video", "cut.mkv"), ("--audio", "two-seconds.wav"), NO_FACE],
        Works { frames: 25, without_face: &[(0, 24)], warns: "`cut.mkv` is cut off: it ends at 1.00 s" },
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
    row("a frame like a thread", &[("--video", "2x1000.mkv")], works(FRAMES)),
    // The voice's file.
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
    row("unknown mode", &[("--sync-mode", ""), ("--loop-mode", "backwards")], Usage("pingpong, loop")),
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

/// What a URL's rows need of the command line.
const DOWNLOAD_LIMITS: [(&str, &str); 2] = [("--max-download", "1MB"), ("--download-timeout", "2")];

/// Paths on the server of `server.rs`, and parts of the messages.
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

/// Where rows run: in the directory of the inputs, with a directory of their own for temporary files.
struct Place {
    inputs: Inputs,
    model: PathBuf,
    temporary: TempDir,
    output: TempDir,
}

impl Place {
    /// With some of the videos. `None`, said on stderr, where the small golden checkpoint is not here, or `ffmpeg`
    /// to make them.
    fn with(videos: &[&str]) -> Option<Self> {
        let place = Self::new(|name| videos.contains(&name))?;
        let absent = videos.iter().find(|name| place.inputs.absent.contains(**name));
        if let Some(name) = absent {
            eprintln!("skipped: no `{name}` without the program `ffmpeg`");
        }
        absent.is_none().then_some(place)
    }

    /// With those videos that are `wanted` and can be made here.
    fn new(wanted: impl Fn(&str) -> bool) -> Option<Self> {
        let shared = std::env::var_os("LATENTSYNC_SHARED").map_or_else(|| "../shared".into(), PathBuf::from);
        let Ok(model) = shared.join("golden/small").canonicalize() else {
            eprintln!("skipped: no `{}` (set LATENTSYNC_SHARED)", shared.join("golden/small").display());
            return None;
        };
        let directory = || tempfile::tempdir().expect("a temporary directory");
        Some(Self { inputs: Inputs::make(wanted), model, temporary: directory(), output: directory() })
    }

    /// The good job with changes; the output goes to its own directory unless a change says otherwise.
    fn args(&self, changes: &[(&str, &str)]) -> Vec<String> {
        let output = self.output.path().join("out.mp4").display().to_string();
        let model = self.model.display().to_string();
        let mut options: Vec<(&str, &str)> = GOOD.to_vec();
        options.extend([("--model", model.as_str()), ("--out", output.as_str())]);
        for &(name, value) in changes {
            options.retain(|(other, _)| *other != name);
            options.push((name, value));
        }
        let typed = options.into_iter().filter(|(_, value)| !value.is_empty());
        // `--seed=-1`: else the value is taken for an option.
        let typed = typed.map(|(name, value)| format!("{name}={value}"));
        ["sync".into(), "--json".into()].into_iter().chain(typed).collect()
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

    /// The names in every directory that a job could leave something in.
    fn names(&self) -> Vec<PathBuf> {
        let directories = [self.inputs.path(), self.temporary.path(), self.output.path()];
        let mut names: Vec<PathBuf> = directories.into_iter().flat_map(names).collect();
        names.sort();
        names
    }

    /// Why a row cannot run here, if it cannot.
    fn lacks(&self, row: &Row) -> Option<&'static str> {
        let changed = |name: &str| row.change.iter().any(|(other, _)| *other == name);
        let good = GOOD.iter().filter(|(name, _)| !changed(name));
        let mut values = good.chain(row.change).map(|(_, value)| *value);
        values.find(|value| self.inputs.absent.contains(value))
    }

    /// Runs a row. The outputs that it made are gone afterwards.
    fn check(&self, row: &Row) {
        // A row that failed may have left its output.
        let _ = fs::remove_file(self.output.path().join("out.mp4"));
        let before = self.names();
        let ran = self.run(row.change);
        let what = row.what;
        match &row.outcome {
            Fails(code, says) => {
                ran.fails(what, *code, says);
                let error = &ran.json(what)["error"];
                assert_eq!(error["exit_code"], *code, "{what}: {ran:#?}");
            }
            Usage(says) => {
                ran.fails(what, 2, says);
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
        assert_eq!(self.names(), before, "{what}: something was left behind or is gone");
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
    /// Runs a command to its end, or kills it when it takes too long.
    fn of(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the program starts");
        let begin = Instant::now();
        // What a row prints fits into a pipe.
        while child.try_wait().expect("a child").is_none() {
            if begin.elapsed() > PATIENCE {
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

    fn fails(&self, what: &str, code: i32, says: &str) {
        assert_eq!(self.code, Some(code), "{what}: {self:#?}");
        assert!(self.stderr.contains(says), "{what}: expected `{says}` in {self:#?}");
    }

    /// The one JSON value on stdout.
    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{what}: {error}: {self:#?}"))
    }
}

#[test]
fn every_row() {
    let Some(place) = Place::new(|_| true) else { return };
    let mut failed = Vec::new();
    for row in ROWS {
        if let Some(name) = place.lacks(row) {
            eprintln!("skipped: {}: no `{name}` without the program `ffmpeg`", row.what);
        } else if catch_unwind(AssertUnwindSafe(|| place.check(row))).is_err() {
            // The panic has said what; the other rows are worth knowing, too.
            failed.push(row.what);
        }
    }
    assert_eq!(failed, [] as [&str; 0]);
}

/// The same as in the table, but seen by the detector instead of said by a file.
#[test]
fn no_face_for_the_detector() {
    let Some(place) = Place::with(&["video.mp4"]) else { return };
    let ran = place.run(&[("--anchors", "")]);
    if ran.code == Some(4) {
        return eprintln!("skipped: no dlib predictor");
    }
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let report = ran.json("no face for the detector");
    let ranges = serde_json::json!([{"first": 0, "last": FRAMES - 1}]);
    assert_eq!(report["frames_without_face"], ranges, "{report}");
}

/// A pipe cannot be read twice, nor from its end: it is refused instead of waited for.
#[cfg(unix)]
#[test]
fn a_pipe_as_input() {
    let Some(place) = Place::with(&["video.mp4"]) else { return };
    let made = Command::new("mkfifo").arg(place.inputs.path().join("pipe")).status();
    if !made.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no program `mkfifo`");
    }
    let before = place.names();
    // Nobody writes to it.
    for (option, says) in [
        ("--video", "cannot fetch pipe: not complete after 2 s"),
        ("--audio", "cannot fetch pipe: not complete after 2 s"),
        ("--anchors", "cannot use the anchors in `pipe`: not a regular file"),
    ] {
        let ran = place.run(&[(option, "pipe"), ("--download-timeout", "2")]);
        ran.fails(option, 3, says);
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

/// Whatever the output is called, it must not be written over an input.
#[cfg(unix)]
#[test]
fn an_output_that_is_a_link_to_an_input() {
    let Some(place) = Place::with(&["video.mp4"]) else { return };
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

    /// A job by somebody whom permissions bind: root's program runs as nobody. `None`, said on stderr, where
    /// nobody may start it.
    fn run_bound(place: &Place, changes: &[(&str, &str)]) -> Option<Ran> {
        set(place.inputs.path(), 0o755);
        set(place.temporary.path(), 0o777);
        let is_root = fs::read(place.inputs.path().join("secret")).is_ok();
        let bind = |command: &mut Command| {
            if is_root {
                command.uid(NOBODY).gid(NOBODY);
            }
        };
        let mut probe = place.command(cargo_bin("latentsync"));
        bind(probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()));
        let mut look = place.command("ls");
        bind(look.arg(place.model.join("vae")).stdout(Stdio::null()).stderr(Stdio::null()));
        if ![&mut probe, &mut look].into_iter().all(|c| c.status().is_ok_and(|status| status.success())) {
            eprintln!("skipped: the program or the model cannot be reached by a user without rights");
            return None;
        }
        let mut command = place.command(cargo_bin("latentsync"));
        bind(&mut command);
        Some(Ran::of(command.args(place.args(changes))))
    }

    fn place() -> Option<Place> {
        let place = Place::with(&["video.mp4"])?;
        place.inputs.write("secret", b"[]");
        set(&place.inputs.path().join("secret"), 0);
        Some(place)
    }

    #[test]
    fn an_input_that_may_not_be_read() {
        let Some(place) = place() else { return };
        set(place.output.path(), 0o777);
        let before = place.names();
        for option in ["--video", "--audio", "--anchors"] {
            let Some(ran) = run_bound(&place, &[(option, "secret")]) else { return };
            ran.fails(option, 3, "cannot read `secret`: Permission denied");
            assert_eq!(ran.json(option)["error"]["exit_code"], 3, "{ran:#?}");
        }
        assert_eq!(place.names(), before);
    }

    #[test]
    fn an_output_directory_that_may_not_be_written() {
        let Some(place) = place() else { return };
        set(place.output.path(), 0o555);
        let before = place.names();
        for changes in [&[][..], &[("--sync-mode", "bounce"), ("--audio", "two-seconds.wav")]] {
            let Some(ran) = run_bound(&place, changes) else { return };
            ran.fails("not writable", 3, "out.mp4`: Permission denied");
            assert_eq!(ran.json("not writable")["error"]["exit_code"], 3, "{ran:#?}");
        }
        assert_eq!(place.names(), before);
    }
}

/// Runs a job whose output is on a disk of 16 KiB, in a mount namespace of its own, and lists what it left there.
/// `None`, said on stderr, where this user may not mount.
#[cfg(unix)]
fn run_on_a_tiny_disk(place: &Place, changes: &[(&str, &str)]) -> Option<(Ran, String)> {
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
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let Some(way) = ways.iter().find(may_mount) else {
        eprintln!("skipped: no small disk can be mounted here");
        return None;
    };
    let ran = Ran::of(unshare(way, cargo_bin("latentsync").as_os_str()).args(place.args(changes)));
    let left = fs::read_to_string(&list).expect("a list");
    fs::remove_file(list).expect("a removed list");
    Some((ran, left))
}

/// Full in the middle of the output, and full of frames that are kept for a second use.
#[cfg(unix)]
#[test]
fn a_full_disk() {
    let Some(place) = Place::with(&["video.mp4", "long.mp4"]) else { return };
    let before = place.names();
    let voice = ("--audio", "two-seconds.wav");
    for (changes, says) in [
        ([("--video", "long.mp4"), voice, NO_FACE, ("--sync-mode", "cut_off")], "no space left for `"),
        // That there is too little for the frames that come back is seen before the work.
        ([("--video", "video.mp4"), voice, NO_FACE, ("--sync-mode", "bounce")], "not enough space at `"),
    ] {
        let Some((ran, left)) = run_on_a_tiny_disk(&place, &changes) else { return };
        ran.fails("full disk", 3, says);
        assert_eq!(ran.json("full disk")["error"]["exit_code"], 3, "{ran:#?}");
        assert_eq!(left, "", "left on the disk");
        assert_eq!(place.names(), before);
    }
}

/// The same where nothing can be mounted: a limit on the size of files stands for the disk's.
#[cfg(unix)]
#[test]
fn an_output_beyond_the_file_size_limit() {
    let Some(place) = Place::with(&["long.mp4"]) else { return };
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
    let Some(place) = Place::with(&["video.mp4"]) else { return };
    let mut help = place.command(cargo_bin("latentsync"));
    let help = Ran::of(help.args(["sync", "--help"]));
    if DOWNLOAD_LIMITS.iter().any(|(option, _)| !help.stdout.contains(option)) {
        return eprintln!("skipped: this build does not fetch URLs");
    }
    let server = server::start();
    let before = place.names();
    for (name, says) in URLS {
        for option in ["--video", "--audio"] {
            let url = format!("{server}/{name}");
            let begin = Instant::now();
            let ran = place.run(&[&[(option, url.as_str())], &DOWNLOAD_LIMITS[..]].concat());
            ran.fails(name, 3, says);
            assert_eq!(ran.json(name)["error"]["exit_code"], 3, "{ran:#?}");
            assert!(begin.elapsed() < Duration::from_secs(20), "{name} took {:?}", begin.elapsed());
            assert_eq!(place.names(), before, "{name}");
        }
    }
}
