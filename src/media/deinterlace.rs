//! Deinterlacing: weaving two fields of different times shows combs at moving edges.
//!
//! FFmpeg's `bwdif` interpolates the lines of one field from their neighbours in space and time, one output
//! frame per input frame. Frames that are not flagged as interlaced pass through unchanged.

use std::collections::VecDeque;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::{ffi, filter, frame};

use super::scale::Layout;

/// Keeps the number of frames and does not change progressive ones.
const FILTER: &str = "bwdif=mode=send_frame:parity=auto:deint=interlaced";

/// A frame with its presentation time, in ticks of its stream.
pub(crate) struct TimedFrame {
    pub frame: frame::Video,
    pub timestamp: Option<i64>,
    /// 0 if unknown.
    pub duration: i64,
}

impl From<frame::Video> for TimedFrame {
    fn from(frame: frame::Video) -> Self {
        let (timestamp, duration) = (frame.timestamp(), frame.packet().duration);
        Self { frame, timestamp, duration }
    }
}

/// Deinterlacer whose filter graph is created at the first interlaced frame.
#[derive(Default)]
pub(crate) struct Deinterlacer {
    graph: Option<(filter::Graph, Layout)>,
    /// Times of the frames inside the filter, in order; the filter changes them.
    inside: VecDeque<(Option<i64>, i64)>,
    pushed: i64,
}

// SAFETY: the graph is owned, has no thread affinity and is only used through `&mut`.
unsafe impl Send for Deinterlacer {}

impl Deinterlacer {
    /// Adds a frame. Returns the frames that are ready, in order.
    pub(crate) fn push(&mut self, timed: TimedFrame) -> Vec<TimedFrame> {
        let layout = Layout::of(&timed.frame);
        let mut ready = match &self.graph {
            Some((_, fits)) if *fits == layout => Vec::new(),
            _ => self.finish(),
        };
        if self.graph.is_none() {
            match timed.frame.is_interlaced().then(|| graph(layout)) {
                Some(Ok(graph)) => self.graph = Some((graph, layout)),
                // Progressive, or in a format or size that the filter does not support: passed through woven.
                None | Some(Err(_)) => {
                    ready.push(timed);
                    return ready;
                }
            }
        }
        let TimedFrame { mut frame, timestamp, duration } = timed;
        frame.set_pts(Some(self.pushed));
        self.pushed += 1;
        if let Some((graph, _)) = &mut self.graph
            && graph.get("in").is_some_and(|mut input| input.source().add(&frame).is_ok())
        {
            self.inside.push_back((timestamp, duration));
        }
        ready.extend(self.drain());
        ready
    }

    /// Returns the remaining frames.
    pub(crate) fn finish(&mut self) -> Vec<TimedFrame> {
        let Some((graph, _)) = &mut self.graph else { return Vec::new() };
        if let Some(mut input) = graph.get("in") {
            // An error is visible in the output of the sink.
            let _ = input.source().flush();
        }
        let rest = self.drain();
        self.graph = None;
        self.inside.clear();
        rest
    }

    fn drain(&mut self) -> Vec<TimedFrame> {
        let mut ready = Vec::new();
        if let Some((graph, _)) = &mut self.graph
            && let Some(mut output) = graph.get("out")
        {
            let mut frame = frame::Video::empty();
            while output.sink().frame(&mut frame).is_ok() {
                let Some((timestamp, duration)) = self.inside.pop_front() else { break };
                let whole = std::mem::replace(&mut frame, frame::Video::empty());
                ready.push(TimedFrame { frame: whole, timestamp, duration });
            }
        }
        ready
    }
}

/// Filter graph between a source and a sink of the same format.
fn graph(layout: Layout) -> Result<filter::Graph, ffmpeg::Error> {
    let Layout { format, width, height } = layout;
    let descriptor = format.descriptor().ok_or(ffmpeg::Error::InvalidData)?;
    let missing = ffmpeg::Error::FilterNotFound;
    let [source, sink] = [filter::find("buffer"), filter::find("buffersink")];
    let name = descriptor.name();
    let args = format!("video_size={width}x{height}:pix_fmt={name}:time_base=1/25:pixel_aspect=1/1");
    let mut graph = filter::Graph::new();
    graph.add(&source.ok_or(missing)?, "in", &args)?;
    graph.add(&sink.ok_or(missing)?, "out", "")?;
    graph.output("in", 0)?.input("out", 0)?.parse(FILTER)?;
    graph.validate()?;
    let mut output = graph.get("out").ok_or(missing)?;
    // SAFETY: the sink is configured. FFmpeg inserts a conversion if the filter does not support the format,
    // which would change the pictures.
    let kept = unsafe { ffi::av_buffersink_get_format(output.as_mut_ptr()) };
    let format: ffi::AVPixelFormat = format.into();
    if kept != format as i32 {
        return Err(ffmpeg::Error::PatchWelcome);
    }
    Ok(graph)
}
