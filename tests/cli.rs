//! The program `latentsync`: messages, exit codes, and what goes to stdout. Each test has a directory of its own, and a
//! home directory without models.
#![cfg(feature = "media")]

#[path = "support/demo_clip.rs"]
mod demo_clip;
#[path = "support/small_model.rs"]
mod small_model;

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A working directory for the program, which sees neither the user's models nor the network.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// With files that exist but are not media files.
    fn with_files(names: &[&str]) -> Self {
        let place = Self::new();
        for name in names {
            place.write(name, "nothing that plays");
        }
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a written file");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(cargo_bin("latentsync"));
        command
            .current_dir(self.path())
            .env("HF_HOME", self.path().join("hub-home"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_HUB_CACHE")
            .env_remove("RUST_LOG")
            .env_remove("LATENTSYNC_ACCEPT_INSIGHTFACE_LICENSE")
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program starts"))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
        }
    }

    /// Asserts the exit code, a part of the message, and an empty stdout.
    fn fails(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.contains(message), "expected `{message}` in {self:#?}");
        assert_eq!(self.stdout, "", "stdout is for results");
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Arguments of a job with the demo clip and the small model.
fn demo_job() -> Vec<String> {
    [
        "sync".into(),
        "--video".into(),
        demo_clip::video().display().to_string(),
        "--audio".into(),
        demo_clip::voice().display().to_string(),
        "--anchors".into(),
        demo_clip::anchors().display().to_string(),
        "--model".into(),
        small_model::directory().display().to_string(),
        "-o".into(),
        "out.mp4".into(),
    ]
    .into()
}

fn args(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[test]
fn usage_errors_name_the_option() {
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    let table: [(&[&str], &str); 16] = [
        (&["--device", "gpu"], "--device"),
        (&["--device", "cuda:x"], "cuda:0"),
        (&["--dtype", "int8"], "bf16"),
        (&["--model", "latentsync-1.7"], "latentsync-1.6"),
        (&["--steps", "0"], "steps is 0: it must be a whole number between 1 and 999"),
        (&["--steps", "1000"], "steps is 1000"),
        (&["--steps", "many"], "--steps"),
        (&["--guidance-scale", "0.5"], "guidance_scale is 0.5: it must be a number between 1 and 10"),
        (&["--guidance-scale", "nan"], "guidance_scale"),
        (&["--seed", "-1"], "-1"),
        (&["--seed", "1.5"], "--seed"),
        (&["--deepcache", "0"], "deepcache is 0"),
        (&["--loop-mode", "bounce"], "`pingpong` or `loop`"),
        (&["--sync-mode", "cut"], "cut_off"),
        (&["--loop-mode", "loop", "--sync-mode", "loop"], "cannot be used with"),
        (&["--face-detector", "retina"], "seeta-dlib"),
    ];
    for (extra, message) in table {
        let mut args = vec!["sync", "--video", "v.mp4", "--audio", "a.wav", "-o", "o.mp4"];
        args.extend(extra);
        place.run(&args).fails(2, message);
    }
    place.run(&["sync", "-o", "o.mp4"]).fails(2, "--video");
    place.run(&["sync", "--video", "v.mp4", "--audio", "a.wav"]).fails(2, "--out");
    place.run(&["sink"]).fails(2, "sync");
    assert_eq!(place.names(), ["a.wav", "v.mp4"]);
}

#[test]
fn wrong_paths_are_found_before_a_model_is_loaded() {
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    fs::create_dir(place.path().join("dir")).unwrap();
    let sync = |video: &str, audio: &str, out: &str| {
        place.run(&["sync", "--video", video, "--audio", audio, "-o", out])
    };
    sync("none.mp4", "a.wav", "o.mp4").fails(3, "cannot read `none.mp4`: No such file");
    sync("v.mp4", "none.wav", "o.mp4").fails(3, "`none.wav`");
    sync("dir", "a.wav", "o.mp4").fails(3, "cannot read `dir`: is a directory");
    sync("v.mp4", "a.wav", "nowhere/o.mp4").fails(3, "`nowhere/o.mp4`: its directory does not exist");
    sync("v.mp4", "a.wav", "nowhere/o.mp4").fails(3, "hint: `mkdir -p nowhere`");
    sync("s3://host/v.mp4?key=x", "a.wav", "o.mp4").fails(2, "--video is a URL, `s3://host/…`");
    sync("v.mp4", "a.wav", "dir").fails(3, "cannot write `dir`: is a directory");
    sync("v.mp4", "a.wav", "./v.mp4").fails(3, "is also an input");
    assert_eq!(fs::read_to_string(place.path().join("v.mp4")).unwrap(), "nothing that plays");
}

#[test]
fn a_missing_model_is_an_error_with_the_command_that_fetches_it() {
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    let ran = place.run(&["sync", "--video", "v.mp4", "--audio", "a.wav", "-o", "o.mp4"]);
    ran.fails(4, "latentsync-1.6");
    assert!(ran.stderr.contains("hint: run `latentsync models pull latentsync-1.6`"), "{ran:#?}");
    assert!(!place.path().join("o.mp4").exists());
}

/// The UNet's file can be opened but has no weights, so every other error is found before loading.
#[test]
fn errors_of_a_job_are_found_before_a_model_is_loaded() {
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    let model = place.path().join("model");
    for folder in ["vae", "whisper"] {
        fs::create_dir_all(model.join(folder)).expect("a directory");
    }
    let vae = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"];
    for name in ["unet_config.yaml", "whisper/tiny.safetensors"].iter().chain(&vae) {
        fs::copy(small_model::directory().join(name), model.join(name)).expect("a copy");
    }
    place.write("model/latentsync_unet.safetensors", "\u{2}\0\0\0\0\0\0\0{}");
    let [video, audio, anchors] =
        [demo_clip::video(), demo_clip::voice(), demo_clip::anchors()].map(|path| path.display().to_string());
    let sync = |changes: &[(&str, &str)]| {
        let mut job =
            vec![("--video", &*video), ("--audio", &audio), ("--anchors", &anchors), ("--model", "model")];
        for change in changes {
            job.retain(|(name, _)| *name != change.0);
            job.push(*change);
        }
        let given = job.into_iter().filter(|(_, value)| !value.is_empty());
        let given: Vec<&str> = given.flat_map(|(name, value)| [name, value]).collect();
        place.run(&[&["sync", "-o", "o.mp4"], &given[..]].concat())
    };
    sync(&[]).fails(4, "missing key");
    sync(&[("--video", "v.mp4")]).fails(3, "`v.mp4` is not a media file");
    sync(&[("--audio", "a.wav")]).fails(3, "`a.wav` is not a media file");
    image::RgbImage::new(64, 64).save(place.path().join("picture.png")).expect("a picture");
    sync(&[("--audio", "picture.png")]).fails(3, "has no audio stream");
    sync(&[("--anchors", "v.mp4")]).fails(3, "cannot use the anchors in `v.mp4`");
    sync(&[("--anchors", ""), ("--face-detector", "insightface")]).fails(4, "--accept-insightface-license");
    sync(&[("--model", "model/latentsync_unet.safetensors")]).fails(4, "give the directory that it is in");
}

#[test]
#[cfg_attr(feature = "metal", ignore = "needs a build without Metal")]
fn a_device_that_the_build_does_not_support_has_its_own_exit_code() {
    let mut job = demo_job();
    job.extend(["--device".into(), "metal".into()]);
    Place::new().run(&args(&job)).fails(5, "device `metal` cannot be used");
}

/// Each body names a file that does not exist: the error shows that the body was parsed.
#[test]
fn the_request_body_of_every_hosted_api_is_accepted() {
    let place = Place::new();
    let table = [
        json!({"video_url": "v.mp4", "audio_url": "a.wav", "guidance_scale": 1, "seed": 3, "loop_mode": "loop"}),
        json!({"model": "latentsync", "input": {"video_url": "v.mp4", "audio_url": "a.wav"}}),
        json!({"audio": "a.wav", "video": "v.mp4"}),
        json!({"audio": "a.wav", "video": "v.mp4", "sync_mode": "bounce"}),
        json!({"video_url": "v.mp4", "audio_url": "a.wav", "playback_type": "normal_reverse_by_audio"}),
        json!({"model": "lipsync-2", "input": [{"type": "video", "url": "v.mp4"}, {"type": "audio", "url": "a.wav"}]}),
    ];
    for body in table {
        place.write("request.json", &body.to_string());
        place.run(&["sync", "--request", "request.json", "-o", "o.mp4"]).fails(3, "cannot read `v.mp4`");
    }
}

#[test]
fn errors_in_a_request_name_the_field() {
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    let table = [
        (
            json!({"video_url": "v.mp4", "audio_url": "a.wav", "guidance_scale": 2.5}).to_string(),
            "request `request.json` is refused: `guidance_scale` is 2.5: it must be between 1 and 2",
        ),
        (json!({"video_url": "v.mp4"}).to_string(), "`audio_url` is missing"),
        (
            json!({"video_url": "s3://host/v.mp4", "audio_url": "a.wav"}).to_string(),
            "only `http` and `https` are fetched",
        ),
        (
            json!({"input": {"video_url": "v.mp4", "audio_url": "a.wav", "seed": "x"}}).to_string(),
            "`input.seed`",
        ),
        ("{".to_string(), "is not JSON"),
        ("[]".to_string(), "must be an object"),
    ];
    for (body, message) in table {
        place.write("request.json", &body);
        place.run(&["sync", "--request", "request.json", "-o", "o.mp4"]).fails(2, message);
    }
    place.run(&["sync", "--request", "none.json", "-o", "o.mp4"]).fails(3, "`none.json`");
    place
        .run(&["sync", "--request", "request.json", "--request-api", "x", "-o", "o.mp4"])
        .fails(2, "wavespeed-lipsync");
}

#[test]
fn options_override_the_request() {
    let place = Place::new();
    place.write(
        "request.json",
        &json!({"video": "v.mp4", "audio": "a.wav", "sync_mode": "remap"}).to_string(),
    );
    let ran = place.run(&["sync", "--request", "request.json", "--video", "typed.mp4", "-o", "o.mp4"]);
    ran.fails(3, "cannot read `typed.mp4`");
}

#[test]
fn json_errors_go_to_stdout_as_one_object() {
    let place = Place::new();
    let ran = place.run(&["sync", "--video", "v.mp4", "--audio", "a.wav", "-o", "o.mp4", "--json"]);
    assert_eq!(ran.code, Some(3));
    let error = &ran.json()["error"];
    assert_eq!(error["exit_code"], 3);
    assert_eq!(error["message"], "cannot read `v.mp4`");
    assert_eq!(error["causes"].as_array().map(Vec::len), Some(1), "{ran:#?}");
    assert!(ran.stderr.starts_with("error: cannot read `v.mp4`: "), "{ran:#?}");
}

/// The reader of stdout may be gone. The program must not panic, and its exit code must be that of the job.
#[test]
fn a_closed_stdout_does_not_change_the_exit_code() {
    let place = Place::new();
    let missing = ["sync", "--video", "v.mp4", "--audio", "a.wav", "-o", "o.mp4", "--json"];
    for (args, code) in [(&missing[..], 3), (&["doctor", "--json", "--no-estimate"], 0)] {
        let mut child = std::process::Command::new(cargo_bin("latentsync"))
            .args(args)
            .current_dir(place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().expect("the program ends"));
        assert_eq!(ran.code, Some(code), "{ran:#?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
    }
}

#[cfg(unix)]
#[test]
fn file_names_may_be_other_than_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    let odd = OsStr::from_bytes(b"odd\xff");
    let mut command = place.command(&["sync", "--video", "v.mp4", "--audio", "a.wav", "--model"]);
    let ran = Ran::of(command.arg(odd).arg("-o").arg(odd).output().expect("the program starts"));
    ran.fails(4, "`odd\u{fffd}`");
    let ran = Ran::of(place.command(&["models", "convert", "-o", "o"]).arg(odd).output().expect("it starts"));
    ran.fails(4, "`odd\u{fffd}`");
    let mut command = place.command(&["models", "path"]);
    let ran = command.env("HF_HOME", odd).output().expect("the program starts");
    assert_eq!(ran.stdout, b"odd\xff/hub\n", "{ran:?}");
}

#[test]
fn quiet_overrides_rust_log() {
    let place = Place::with_files(&["v.mp4", "a.wav"]);
    let args = ["sync", "--video", "v.mp4", "--audio", "a.wav", "-o", "o.mp4", "--quiet"];
    let ran = Ran::of(place.command(&args).env("RUST_LOG", "trace").output().expect("the program starts"));
    assert!(ran.stderr.starts_with("error: "), "{ran:#?}");
}

#[test]
fn models_lists_what_is_installed_and_how_to_get_the_rest() {
    let place = Place::new();
    let list = place.run(&["models", "list"]);
    assert_eq!(list.code, Some(0), "{list:#?}");
    for name in ["latentsync-1.6", "latentsync-1.5", "dlib", "insightface", "not here"] {
        assert!(list.stdout.contains(name), "{list:#?}");
    }
    let cache = place.run(&["models", "path"]);
    assert_eq!(Path::new(cache.stdout.trim_end()), place.path().join("hub-home/hub"));
    place.run(&["models", "path", "latentsync-1.5"]).fails(4, "`latentsync models pull latentsync-1.5`");
    place.run(&["models", "pull", "latentsync-1.6"]).fails(4, "offline");
    place.run(&["models", "pull", "insightface"]).fails(4, "--accept-insightface-license");
    place.run(&["models", "path", "insightface"]).fails(4, "pull insightface --accept-insightface-license`");
    place.run(&["models", "pull", "nothing"]).fails(2, "latentsync-1.6");
    place.run(&["models", "convert", "latentsync-1.7", "-o", "small"]).fails(2, "latentsync-1.6");
    place.run(&["models", "convert", ".", "-o", "."]).fails(2, "exists already");
    place.run(&["models", "convert", "latentsync-1.6", "-o", "small", "--dtype", "auto"]).fails(2, "bf16");
    let verify = place.run(&["models", "verify"]);
    assert!(verify.code == Some(0) && !verify.stdout.is_empty(), "{verify:#?}");
    let verify = place.run(&["models", "verify", "latentsync-1.5"]);
    assert_eq!(verify.code, Some(4), "{verify:#?}");
    assert!(verify.stdout.contains("missing  latentsync-1.5 latentsync_unet.pt"), "{verify:#?}");
    assert_eq!(place.names(), Vec::<String>::new(), "these commands write no files");
}

#[test]
fn doctor_reports_its_findings() {
    let place = Place::new();
    let ran = place.run(&["doctor", "--json", "--no-estimate", "--device", "cpu"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let findings = ran.json();
    assert_eq!(findings["device"], "cpu");
    assert!(
        findings["ffmpeg"]["libavcodec"].as_str().is_some_and(|version| version.contains('.')),
        "{findings}"
    );
    assert_eq!(findings["models"].as_array().map(Vec::len), Some(4), "{findings}");
    assert_eq!(findings["estimate"], Value::Null);
    let needs = findings["memory_needs"].as_array().expect("memory by model");
    assert_eq!(needs.len(), 2, "{findings}");
    assert!(needs.iter().all(|need| need["bytes"].as_u64() > Some(2_500_000_000)), "{findings}");
    if !cfg!(feature = "metal") {
        let ran = place.run(&["doctor", "--no-estimate", "--device", "metal"]);
        assert_eq!(ran.code, Some(0), "an unavailable device is a finding, not an error: {ran:#?}");
        assert!(ran.stdout.contains("device `metal` cannot be used"), "{ran:#?}");
        assert!(ran.stdout.contains("encoders"), "{ran:#?}");
    }
    let text = place.run(&["doctor", "--no-estimate"]);
    assert!(text.stdout.contains("latentsync models pull latentsync-1.6"), "{text:#?}");
}

#[test]
fn a_job_leaves_its_output_and_nothing_else() {
    let place = Place::new();
    let mut job = demo_job();
    job.extend(["--steps", "1", "--seed", "5", "--json"].map(String::from));
    let ran = place.run(&args(&job));
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let report = ran.json();
    assert_eq!((&report["seed"], &report["steps"]), (&json!(5), &json!(1)), "{report}");
    assert!(report["frames"].as_u64().is_some_and(|frames| frames >= 75), "{report}");
    assert!(
        report["stage_seconds"]["denoise_latents"].as_f64().is_some_and(|seconds| seconds > 0.0),
        "{report}"
    );
    assert!(ran.stderr.contains("denoise_latents: started"), "{ran:#?}");
    assert_eq!(place.names(), ["out.mp4"]);
    assert!(fs::metadata(place.path().join("out.mp4")).unwrap().len() > 1000);
}

#[test]
fn the_seed_is_printed_even_with_quiet() {
    let place = Place::new();
    let mut job = demo_job();
    job.extend(["--steps", "1", "--sync-mode", "cut_off", "--quiet"].map(String::from));
    let ran = place.run(&args(&job));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:#?}");
    let seed = ran.stdout.lines().next().and_then(|line| line.rsplit_once("seed "));
    assert!(seed.is_some_and(|(_, seed)| seed.parse::<u64>().is_ok()), "{ran:#?}");
}

/// A job of several minutes, interrupted after a few seconds.
#[cfg(unix)]
#[test]
fn an_interrupted_job_stops_within_a_second_and_leaves_nothing() {
    let place = Place::new();
    let mut job = demo_job();
    job.extend(["--steps", "999", "--json"].map(String::from));
    let mut child = std::process::Command::new(cargo_bin("latentsync"))
        .args(&job)
        .current_dir(place.path())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let begin = Instant::now();
    // A file in the output directory shows that the job has started.
    while place.names().is_empty() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().expect("a child").is_none(), "the job ended before the signal");
    let asked = Instant::now();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    let ran = Ran::of(child.wait_with_output().expect("the program ends"));
    let took = asked.elapsed();
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(ran.stderr.ends_with("error: interrupted\n"), "{ran:#?}");
    assert_eq!(ran.json()["error"]["exit_code"], 130);
    // One second is the documented limit; the second one is for a busy machine.
    assert!(took < Duration::from_secs(2), "stopping took {took:?}");
    assert_eq!(place.names(), Vec::<String>::new());
}
