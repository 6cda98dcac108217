//! The vendors' own examples, and what their rules refuse.

use serde_json::{Value, json};

use super::*;
use crate::options::{LoopMode, PlaybackType, SyncMode};

const VIDEO: &str = "https://fal.media/files/koala/8teUPbRRMtAUTORDvqy0l.mp4";
const AUDIO: &str = "https://fal.media/files/lion/vyFWygmZsIZlUO4s0nr2n.wav";

fn read(body: Value) -> Result<Request, FieldError> {
    Request::from_json(&body, None)
}

#[test]
fn published_examples() {
    let pingpong = LoopMode::PingPong.policy();
    let cut_off = SyncMode::CutOff.policy();
    let table = [
        (json!({"video_url": VIDEO, "audio_url": AUDIO}), Api::Fal, pingpong, None),
        (json!({"video_url": VIDEO, "audio_url": AUDIO, "guidance_scale": 1}), Api::Fal, pingpong, Some(1.0)),
        (
            json!({"model": "latentsync", "input": {"video_url": VIDEO, "audio_url": AUDIO}}),
            Api::Eachlabs,
            pingpong,
            None,
        ),
        (json!({"audio": AUDIO, "video": VIDEO}), Api::WavespeedLatentsync, pingpong, None),
        (
            json!({"audio": AUDIO, "video": VIDEO, "sync_mode": "cut_off"}),
            Api::WavespeedLipsync,
            cut_off,
            None,
        ),
        (
            json!({"video_url": VIDEO, "audio_url": AUDIO, "playback_type": "normal"}),
            Api::Jogg,
            PlaybackType::Normal.policy(),
            None,
        ),
        (
            json!({"model": "lipsync-2", "input": [{"type": "video", "url": VIDEO}, {"type": "audio", "url": AUDIO}],
                   "options": {"sync_mode": "bounce"}}),
            Api::SyncSo,
            SyncMode::Bounce.policy(),
            None,
        ),
    ];
    for (body, api, duration, guidance_scale) in table {
        let request = read(body.clone()).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.api, api, "{body}");
        assert_eq!((request.video.as_str(), request.audio.as_str()), (VIDEO, AUDIO), "{body}");
        assert_eq!(request.duration, duration, "{body}");
        assert_eq!(request.guidance_scale, guidance_scale, "{body}");
    }
}

#[test]
fn every_field_reaches_the_options() {
    let input =
        json!({"video_url": "v", "audio_url": "a", "guidance_scale": 1.5, "seed": 42, "loop_mode": "loop"});
    for body in
        [input.clone(), json!({"input": input, "webhook_url": "https://host/hook", "version": "0.0.1"})]
    {
        let mut options = Options { steps: 7, ..Options::default() };
        read(body).unwrap().apply(&mut options);
        let expected = Options {
            guidance_scale: 1.5,
            steps: 7,
            seed: Some(42),
            duration: LoopMode::Loop.into(),
            ..Options::default()
        };
        assert_eq!(options, expected);
    }
}

#[test]
fn absent_fields_take_the_vendors_defaults() {
    let plain = json!({"video": "v", "audio": "a"});
    let urls = json!({"video_url": "v", "audio_url": "a"});
    let as_api = |body: &Value, api| Request::from_json(body, Some(api)).unwrap().duration;
    assert_eq!(as_api(&plain, Api::WavespeedLipsync), SyncMode::CutOff.policy());
    assert_eq!(as_api(&urls, Api::Jogg), PlaybackType::Normal.policy());
    assert_eq!(as_api(&urls, Api::Fal), LoopMode::PingPong.policy());
    let nulls = json!({"video_url": "v", "audio_url": "a", "guidance_scale": null, "seed": null, "loop_mode": null,
                       "playback_type": null, "video": null, "audio": null});
    assert_eq!(read(nulls).unwrap(), read(urls).unwrap());
    let nulls = json!({"video": "v", "audio": "a", "sync_mode": null, "video_url": null});
    assert_eq!(read(nulls).unwrap(), read(plain).unwrap());
}

#[test]
fn unknown_fields_pass_and_known_ones_without_effect_are_listed() {
    let body = json!({"video_url": "v", "audio_url": "a", "priority": [1]});
    assert_eq!(read(body).unwrap().ignored, Vec::<String>::new());
    let body = json!({"input": [{"type": "audio", "url": "a"}, {"type": "video", "url": "v"}],
                      "options": {"temperature": 0.5}});
    assert_eq!(read(body).unwrap().ignored, ["options.temperature"]);
}

#[test]
fn what_is_wrong_is_named() {
    let fal = |name: &str, value: Value| {
        let mut body = json!({"video_url": "v", "audio_url": "a"});
        body[name] = value;
        body
    };
    let table = [
        (fal("guidance_scale", json!(2.5)), "`guidance_scale` is 2.5: it must be between 1 and 2"),
        (fal("guidance_scale", json!(0)), "`guidance_scale` is 0: it must be between 1 and 2"),
        (fal("guidance_scale", json!("1")), "`guidance_scale` must be a number, not \"1\""),
        (fal("seed", json!(1.5)), "`seed` must be a whole number, not 1.5"),
        (fal("seed", json!("7")), "`seed` must be a whole number"),
        (fal("loop_mode", json!("bounce")), "`loop_mode` is `bounce`: it must be one of pingpong, loop"),
        (fal("loop_mode", json!(true)), "`loop_mode` must be a string, not true"),
        (fal("audio_url", json!(["a"])), "`audio_url` must be a string, not an array"),
        (fal("audio_url", json!(null)), "`audio_url` is missing"),
        (fal("video_url", json!(" ")), "`video_url` is empty"),
        (fal("video", json!("v")), "the body has both"),
        (
            json!({"video_url": "v", "audio_url": "a", "playback_type": "normal", "seed": 1}),
            "`playback_type` is JoggAI's, but `guidance_scale`, `loop_mode` and `seed` are fal's",
        ),
        (
            json!({"video_url": "v", "audio_url": "a", "playback_type": "reverse"}),
            "`playback_type` is `reverse`",
        ),
        (json!({"video": "v"}), "`audio` is missing"),
        (
            json!({"video": "v", "audio": "a", "sync_mode": "cut"}),
            "`sync_mode` is `cut`: it must be one of bounce, loop",
        ),
        (json!({"model": "other", "input": {"video_url": "v", "audio_url": "a"}}), "`model` is `other`"),
        (json!({"input": {"video_url": "v"}}), "`input.audio_url` is missing"),
        (
            json!({"input": {"video_url": "v", "audio_url": "a", "guidance_scale": 3}}),
            "`input.guidance_scale` is 3",
        ),
        (json!({"input": [{"type": "video", "url": "v"}]}), "`input` has no audio"),
        (
            json!({"input": [{"type": "text", "url": "v"}]}),
            "`input.0.type` is `text`, which is not supported",
        ),
        (json!({"input": [{"type": "image", "url": "v"}]}), "`input.0.type` is `image`: it must be"),
        (json!({"input": [], "outputFileName": "a/b"}), "`outputFileName` must be 1 to 255 letters"),
        (json!({"input": [], "outputFileName": {}}), "`outputFileName` must be a string"),
        (
            json!({"input": [{"type": "video", "url": "v"}, {"type": "video", "url": "w"}]}),
            "`input` has more than one video",
        ),
        (json!({"input": [], "segments": [{}]}), "`segments` is not supported"),
        (json!({"input": [], "segments": "x"}), "`segments` must be an array"),
        (json!({"input": "x"}), "the body names no video"),
        (json!({}), "the body names no video"),
        (json!([1, 2]), "the body must be an object, not an array"),
        (json!("x"), "the body must be an object, not \"x\""),
    ];
    for (body, expected) in table {
        let message = read(body.clone()).expect_err(&body.to_string()).to_string();
        assert!(message.starts_with(expected), "{body}: {message}");
    }
}

#[test]
fn minus_one_asks_for_a_random_seed_and_every_other_number_is_one() {
    for (number, seed) in [(json!(-2), u64::MAX - 1), (json!(7.0), 7), (json!(u64::MAX), u64::MAX)] {
        let body = json!({"video_url": "v", "audio_url": "a", "seed": number});
        assert_eq!(read(body).unwrap().seed, Some(seed), "{number}");
    }
    assert_eq!(read(json!({"video_url": "v", "audio_url": "a", "seed": -1})).unwrap().seed, None);
}

#[test]
fn fal_s_sync_lipsync_has_the_five_modes() {
    let mut body = json!({"video_url": "v", "audio_url": "a", "model": "lipsync-1.9.0-beta"});
    let lipsync = |body: &Value| Request::from_json(body, Some(Api::FalLipsync));
    assert_eq!(lipsync(&body).unwrap().duration, SyncMode::CutOff.policy());
    for name in SyncMode::NAMES {
        body["sync_mode"] = (*name).into();
        assert_eq!(read(body.clone()).unwrap().api, Api::FalLipsync);
        assert_eq!(lipsync(&body).unwrap().duration, name.parse::<SyncMode>().unwrap().policy());
    }
    body["sync_mode"] = "normal".into();
    assert!(lipsync(&body).is_err());
}

#[test]
fn an_api_is_known_by_its_name() {
    for api in Api::ALL {
        assert_eq!(api.name().parse::<Api>().unwrap(), api);
    }
    assert!("falai".parse::<Api>().unwrap_err().to_string().contains("eachlabs"));
}

#[test]
fn a_file_that_is_no_json_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("request.json");
    std::fs::write(&path, "{\"video_url\": ").unwrap();
    let error = Request::read(&path, None).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    std::fs::write(&path, "\u{feff}{\"video\": \"v\", \"audio\": \"a\"}").unwrap();
    assert_eq!(Request::read(&path, None).unwrap().video, "v", "with a byte order mark");
    let missing = Request::read(&directory.path().join("none.json"), None).unwrap_err();
    assert!(matches!(missing, Error::System(_)), "{missing:?}");
}

/// A file without an end, named by mistake, was read until the memory was full.
#[test]
fn a_body_of_megabytes_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), " ".repeat(MAX_BYTES as usize + 5)).unwrap();
    let error = Request::read(file.path(), None).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let problem = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(problem.as_deref(), Some("the body is longer than 1048576 bytes"));
}
