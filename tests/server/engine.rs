//! The engine: its options, when the model is loaded and unloaded, and what runs concurrently.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use latentsync::options::{AudioLonger, DurationPolicy, VideoLonger};
use latentsync::server::jobs::engine::Engine;
use latentsync::{CancelToken, FetchedJob, Options, Progress, Report};
use serde_json::{Value, json};

use crate::common::{FAST, SLOW, Server, Stub, TIMEOUT, VIDEO};

/// An engine that reports its calls and delegates them to the stub.
struct Spy {
    stub: Stub,
    options: Sender<Options>,
    unloaded: Arc<AtomicUsize>,
}

impl Engine for Spy {
    fn load(&mut self) -> latentsync::Result<()> {
        self.stub.load()
    }

    fn run(
        &mut self,
        job: &FetchedJob,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> latentsync::Result<Report> {
        self.options.send(job.job().options.clone()).unwrap();
        self.stub.run(job, progress, cancel)
    }

    fn unload(&mut self) {
        self.unloaded.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_duration_mode_of_every_vendor_reaches_the_engine() {
    let (options, received) = channel();
    let server = Server::start(Spy { stub: FAST, options, unloaded: Arc::default() });
    let (video, audio) = server.inputs();
    let urls = |field: &str, value: Value| {
        let mut body = json!({"video_url": video, "audio_url": audio});
        if !value.is_null() {
            body[field] = value;
        }
        body
    };
    let wavespeed = |mode: &str| json!({"video": video, "audio": audio, "sync_mode": mode});
    let sync_so = |mode: &str| {
        let input = [json!({"type": "video", "url": video}), json!({"type": "audio", "url": audio})];
        json!({"model": "lipsync-2", "input": input, "options": {"sync_mode": mode}})
    };
    let fal = "/fal/queue/fal-ai/latentsync";
    let fal_lipsync = "/fal/queue/fal-ai/sync-lipsync/v2";
    let jogg = "/open/v2/create_lip_sync_video";
    use AudioLonger::{Cut, Hold, Loop, PingPong, Slow};
    use VideoLonger::{PadSilence, Speed, Trim};
    let sync_modes = [
        ("bounce", PingPong, Trim),
        ("loop", Loop, Trim),
        ("cut_off", Cut, Trim),
        ("silence", Hold, PadSilence),
        ("remap", Slow, Speed),
    ];
    let mut table = vec![
        (fal, urls("loop_mode", Value::Null), PingPong, Trim),
        (fal, urls("loop_mode", "pingpong".into()), PingPong, Trim),
        (fal, urls("loop_mode", "loop".into()), Loop, Trim),
        (fal_lipsync, urls("sync_mode", Value::Null), Cut, Trim),
        (
            "/v1/prediction",
            json!({"model": "latentsync", "input": urls("loop_mode", "loop".into())}),
            Loop,
            Trim,
        ),
        ("/api/v3/bytedance/latentsync", json!({"video": video, "audio": audio}), PingPong, Trim),
        (jogg, urls("playback_type", Value::Null), Cut, Trim),
        (jogg, urls("playback_type", "normal".into()), Cut, Trim),
        (jogg, urls("playback_type", "normal_reverse".into()), PingPong, PadSilence),
        (jogg, urls("playback_type", "normal_reverse_by_audio".into()), PingPong, Trim),
    ];
    for (mode, audio_longer, video_longer) in sync_modes {
        table.push((fal_lipsync, urls("sync_mode", mode.into()), audio_longer, video_longer));
        table.push(("/api/v3/sync/lipsync-1.9.0-beta", wavespeed(mode), audio_longer, video_longer));
        table.push(("/v2/generate", sync_so(mode), audio_longer, video_longer));
    }
    for (path, body, audio_longer, video_longer) in table {
        let answer = server.post(path, body.clone());
        assert!(
            answer.status < 300 && answer.json["code"].as_u64().unwrap_or(0) <= 200,
            "{path} {body}: {answer:#?}"
        );
        let options = received.recv_timeout(TIMEOUT).expect("the job runs");
        assert_eq!(options.duration, DurationPolicy { audio_longer, video_longer }, "{path} {body}");
    }
}

#[test]
fn model_options_of_a_request_reach_the_engine() {
    let (options, received) = channel();
    let server = Server::start(Spy { stub: FAST, options, unloaded: Arc::default() });
    let (video, audio) = server.inputs();
    for (seed, want) in
        [(json!(7), Some(7)), (json!(-5), Some(u64::MAX - 4)), (json!(u64::MAX), Some(u64::MAX))]
    {
        let input = json!({"video_url": video, "audio_url": audio, "guidance_scale": 1.5, "seed": seed});
        for (path, body) in [
            ("/fal/queue/fal-ai/latentsync", input.clone()),
            ("/v1/prediction", json!({"model": "latentsync", "input": input})),
        ] {
            assert_eq!(server.post(path, body).status, 200, "{path} {seed}");
            let options = received.recv_timeout(TIMEOUT).expect("the job runs");
            assert_eq!((options.guidance_scale, options.seed), (1.5, want), "{path} {seed}");
        }
    }
}

#[test]
fn an_idle_model_is_unloaded_once_and_the_next_job_runs() {
    let (options, _received) = channel();
    let unloaded = Arc::new(AtomicUsize::new(0));
    let spy = Spy { stub: FAST, options, unloaded: unloaded.clone() };
    let server = Server::with(spy, |config| config.idle_unload = Some(Duration::from_millis(50)));
    let (video, audio) = server.inputs();
    for round in 1..=2 {
        let body = json!({"video": video, "audio": audio, "enable_sync_mode": true});
        let done = server.post("/api/v3/bytedance/latentsync", body);
        assert_eq!(done.json["data"]["status"], "completed");
        let started = Instant::now();
        while unloaded.load(Ordering::SeqCst) < round && started.elapsed() < TIMEOUT {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        // Before the first job the model may or may not be unloaded; after a job it must be.
        assert!((round..=round + 1).contains(&unloaded.load(Ordering::SeqCst)), "once after each job");
    }
}

#[test]
fn inputs_of_the_next_job_are_fetched_while_a_job_runs() {
    let server = Server::start(SLOW);
    let files = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v.mp4", files.local_addr().unwrap());
    let (video, audio) = server.inputs();
    let submit = |video: &str| {
        let answer = server.post(
            "/v2/generate",
            json!({
                "model": "lipsync-2",
                "input": [{"type": "video", "url": video}, {"type": "audio", "url": audio}],
            }),
        );
        format!("/v2/generate/{}", answer.text("id"))
    };
    let first = submit(&video);
    server.until(&first, |answer| answer.json["status"] == "PROCESSING");
    let second = submit(&url);
    let requests = Arc::new(Mutex::new(0));
    let count = requests.clone();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = files.accept().unwrap();
        *count.lock().unwrap() += 1;
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", VIDEO.len())
            .unwrap();
        stream.write_all(VIDEO).unwrap();
    });
    serving.join().unwrap();
    assert_eq!(server.get(&first).json["status"], "PROCESSING", "the first job still runs");
    assert_eq!((server.get(&second).text("status"), *requests.lock().unwrap()), ("PENDING", 1));
}
