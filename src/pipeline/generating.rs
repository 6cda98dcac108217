//! The caller's thread: stages 4 to 6, chunk by chunk.

use std::ops::Range;
use std::sync::mpsc::SyncSender;

use candle_core::{Device, Tensor};

use super::likeness::{self, looks_drawn};
use super::writing::{Synced, SyncedFace, SyncedFrame};
use super::{CHUNKS_PER_SEGMENT, Done, Heard, Run};
use crate::error::{Error, Result, compute};
use crate::face_record::FaceRecord;
use crate::face_track::Found;
use crate::lip_sync::LipSync;
use crate::meter::Meter;
use crate::noise::NoiseFor;
use crate::report::{CancelToken, FaceReport, FrameRange, Stage};
use crate::source_frames::{Next, SourceFace, SourceFrame, SourceFrames};
use crate::stages::colour_match::ColourCorrection;
use crate::stages::decode_latents::decode_faces;
use crate::stages::denoise_latents::{ChunkInputs, Denoiser};
use crate::stages::encode_latents::{ChunkFace, conditioning, encode_face};

/// The output frames whose mouths go through the UNet together.
struct Chunk {
    number: usize,
    /// Numbers of the output frames.
    outputs: Range<usize>,
    frames: Vec<SourceFrame>,
    /// Fewer than a full chunk has, where the output ends.
    is_last: bool,
}

/// What is to become a chunk.
struct Wanted {
    number: usize,
    /// As many as a full chunk has.
    outputs: Range<usize>,
    /// They are in the output already: a killed job got so far.
    is_done: bool,
}

/// A mouth, for one model frame.
struct Mouth {
    model_frame: usize,
    /// As decoded, (resolution, resolution, 3) f32.
    decoded: Tensor,
    colour: ColourCorrection,
}

impl Run<'_> {
    pub(super) fn sync_frames(
        &self,
        heard: &Heard,
        sources: &mut SourceFrames,
        synced: SyncSender<Synced>,
        stop: &CancelToken,
        mut done: Done,
        meter: &mut Meter,
    ) -> Result<Done> {
        for number in 0.. {
            let first = number * self.model.chunk_frames;
            let outputs = heard.timing.outputs(first..first + self.model.chunk_frames);
            // Segments end with chunks: one that has begun before is done.
            let is_done = outputs.start < done.resumed_frames;
            let wanted = Wanted { number, outputs, is_done };
            let mut chunk = self.next_chunk(wanted, heard, sources, stop, meter)?;
            let is_last = chunk.is_last;
            done.frames = chunk.outputs.end;
            let mouths = match is_done {
                true => Vec::new(),
                false => self.generate(&mut chunk, heard, stop, meter)?,
            };
            self.check_likeness(&chunk, &mouths, heard, &mut done)?;
            meter.tell(Stage::DenoiseLatents, done.frames * self.schedule.timesteps().len());
            meter.tell(Stage::DecodeLatents, done.frames);
            for (output, frame) in chunk.outputs.clone().zip(chunk.frames) {
                let frame = self.finish_frame(output, frame, heard, &mouths, &mut done);
                if !is_done && synced.send(Synced::Frame(frame)).is_err() {
                    return Ok(done);
                }
                meter.forward();
            }
            if is_last {
                break;
            }
            let ends_segment = (number + 1) % CHUNKS_PER_SEGMENT == 0;
            if ends_segment && !is_done && synced.send(Synced::EndOfSegment).is_err() {
                return Ok(done);
            }
        }
        if done.frames == 0 {
            return Err(Error::NoFrames { path: self.fetched.video().to_path_buf(), damaged: 0 });
        }
        done.source_frames = sources.seen();
        Ok(done)
    }

    /// The next frames of the output.
    fn next_chunk(
        &self,
        Wanted { number, outputs, is_done }: Wanted,
        heard: &Heard,
        sources: &mut SourceFrames,
        stop: &CancelToken,
        meter: &mut Meter,
    ) -> Result<Chunk> {
        let mut frames = Vec::with_capacity(outputs.len());
        let mut is_last = false;
        for output in outputs.clone() {
            stop.check()?;
            meter.forward();
            let model_frame = heard.timing.model_frame(output);
            // At rates above its own the model does not need every frame.
            let is_needed = !is_done && heard.timing.picture_of(model_frame, &outputs) == output;
            match sources.next(output)? {
                Next::End => {
                    is_last = true;
                    break;
                }
                Next::Again(mut frame) => {
                    if is_needed {
                        self.encode(&mut frame)?;
                        sources.refresh(&frame);
                    }
                    frames.push(frame);
                }
                Next::New(mut frame) => {
                    if is_needed {
                        self.encode(&mut frame)?;
                    }
                    sources.keep(&frame)?;
                    meter.tell(Stage::EncodeLatents, sources.seen());
                    frames.push(frame);
                }
            }
        }
        let outputs = outputs.start..outputs.start + frames.len();
        Ok(Chunk { number, outputs, frames, is_last })
    }

    /// Stage 4, for a face that has not been through it.
    fn encode(&self, frame: &mut SourceFrame) -> Result<()> {
        let LipSync { vae, device, mask, .. } = self.model;
        let Some(face) = frame.face.as_mut().filter(|face| face.record.posteriors.is_none()) else {
            return Ok(());
        };
        let posteriors = self.clock.time(Stage::EncodeLatents, || encode_face(vae, device, mask, &face.crop));
        face.record.posteriors = Some(posteriors.map_err(compute("encode_latents"))?);
        Ok(())
    }

    /// New mouths for the model frames of one chunk whose pictures have a face. None where none of them would show.
    fn generate(
        &self,
        chunk: &mut Chunk,
        heard: &Heard,
        stop: &CancelToken,
        meter: &mut Meter,
    ) -> Result<Vec<Mouth>> {
        let LipSync { unet, vae, .. } = self.model;
        let steps = self.schedule.timesteps().len();
        let outputs = chunk.outputs.clone();
        let shows = |(output, frame): (usize, &SourceFrame)| self.strength(output, frame, heard) > 0.0;
        if !outputs.clone().zip(&chunk.frames).any(shows) {
            return Ok(Vec::new());
        }
        let first = chunk.number * self.model.chunk_frames;
        let end = (first + self.model.chunk_frames).min(heard.timing.model_frames(outputs.end));
        let pictures = (first..end)
            .map(|model_frame| (model_frame, heard.timing.picture_of(model_frame, &outputs) - outputs.start));
        for (_, picture) in pictures.clone() {
            // Most have been; not those that were skipped the first time.
            self.encode(&mut chunk.frames[picture])?;
        }
        let faces: Vec<(usize, &SourceFace)> = pictures
            .filter_map(|(model_frame, picture)| Some((model_frame, chunk.frames[picture].face.as_ref()?)))
            .collect();
        if faces.is_empty() {
            return Ok(Vec::new());
        }
        let inputs = self.chunk_inputs(&faces, heard)?;
        let denoiser = Denoiser {
            unet,
            schedule: &self.schedule,
            guidance_scale: self.job.options.guidance_scale,
            deepcache: self.job.options.deepcache,
            device: &self.model.device,
            cancel: stop,
        };
        let latents = self.clock.time(Stage::DenoiseLatents, || {
            denoiser.run(&inputs, |step| {
                meter.tell(Stage::DenoiseLatents, outputs.start * steps + step * outputs.len());
                meter.forward();
            })
        })?;
        if let Some(look) = self.hooks.latents {
            look(chunk.number, &latents);
        }
        let model_frames: Vec<usize> = faces.iter().map(|&(model_frame, _)| model_frame).collect();
        let decoded = self
            .clock
            .time(Stage::DecodeLatents, || decode_faces(vae, &latents, &model_frames, || stop.check()))?;
        let pairs: Vec<_> =
            decoded.iter().zip(&faces).map(|(decoded, (_, face))| (decoded, &face.crop)).collect();
        let colours = match &self.colours {
            Some(matcher) => matcher.corrections(&pairs).map_err(compute("the colour match"))?,
            None => vec![ColourCorrection::NONE; decoded.len()],
        };
        let mouths = model_frames.into_iter().zip(decoded).zip(colours);
        Ok(mouths.map(|((model_frame, decoded), colour)| Mouth { model_frame, decoded, colour }).collect())
    }

    /// With the first mouth that the demo model makes, says whether it knows such faces.
    fn check_likeness(&self, chunk: &Chunk, mouths: &[Mouth], heard: &Heard, done: &mut Done) -> Result<()> {
        let LipSync { mask, draws_only, .. } = self.model;
        let Some(mouth) = mouths.first().filter(|_| *draws_only && !done.likeness_checked) else {
            return Ok(());
        };
        let picture = heard.timing.picture_of(mouth.model_frame, &chunk.outputs) - chunk.outputs.start;
        let Some(face) = &chunk.frames[picture].face else { return Ok(()) };
        done.likeness_checked = true;
        if !looks_drawn(&mouth.decoded, &face.crop, mask).map_err(compute("the demo model's faces"))? {
            done.warnings.push(likeness::WARNING.into());
        }
        Ok(())
    }

    /// Noise, conditioning and audio of the faces of one chunk, each with its model frame's number.
    fn chunk_inputs(&self, faces: &[(usize, &SourceFace)], heard: &Heard) -> Result<ChunkInputs> {
        let shape = self.model.latent_shape();
        // The encoder of the voice runs when a window is asked for.
        let windows = self.clock.time(Stage::AudioFeatures, || {
            faces.iter().map(|&(frame, _)| heard.features.window(frame)).collect::<Result<Vec<_>>>()
        })?;
        let faces = faces.iter().filter_map(|&(model_frame, face)| {
            Some(ChunkFace { model_frame, posteriors: face.record.posteriors.as_ref()? })
        });
        let faces: Vec<_> = faces.collect();
        let stacked = || {
            let noise = self.noise.frame(NoiseFor::InitialLatents, 0, shape);
            let noise =
                Tensor::from_vec(noise, (1, 1, shape.height, shape.width, shape.channels), &Device::Cpu)?;
            Ok(ChunkInputs {
                noise: noise.repeat((1, faces.len(), 1, 1, 1))?,
                conditioning: conditioning(&self.model.vae, &self.model.mask, &faces, self.noise)?,
                audio: Tensor::stack(&windows, 0)?.unsqueeze(0)?,
            })
        };
        self.clock.time(Stage::EncodeLatents, stacked).map_err(compute("encode_latents"))
    }

    /// How much of a generated mouth an output frame shows.
    fn strength(&self, output: usize, frame: &SourceFrame, heard: &Heard) -> f32 {
        let seconds = output as f64 / heard.timing.frames_per_second();
        let voice = heard.activity.as_ref().map_or(1.0, |activity| activity.strength(seconds));
        frame.face.as_ref().map_or(0.0, |face| face.record.strength) * voice
    }

    /// Brings a frame and its mouth together, and notes what there is to report.
    fn finish_frame(
        &self,
        output: usize,
        frame: SourceFrame,
        heard: &Heard,
        mouths: &[Mouth],
        done: &mut Done,
    ) -> SyncedFrame {
        let strength = self.strength(output, &frame, heard);
        note(output, frame.face.as_ref().map(|face| &face.record), strength, &mut done.faces);
        let wanted = heard.timing.model_frame(output);
        let mouth = mouths.iter().min_by_key(|mouth| mouth.model_frame.abs_diff(wanted));
        let face = match (frame.face, mouth) {
            (Some(SourceFace { crop, record }), Some(mouth)) if strength > 0.0 => Some(SyncedFace {
                decoded: mouth.decoded.clone(),
                colour: mouth.colour,
                crop,
                matrix: record.matrix,
                strength,
            }),
            _ => None,
        };
        SyncedFrame { output, picture: frame.picture, face }
    }
}

/// What there is to report of a frame.
fn note(output: usize, face: Option<&FaceRecord>, strength: f32, report: &mut FaceReport) {
    let Some(face) = face else {
        return FrameRange::push(&mut report.frames_without_face, output);
    };
    match face.found {
        Found::Seen => {}
        Found::Bridged => FrameRange::push(&mut report.frames_bridged, output),
        Found::Held => FrameRange::push(&mut report.frames_held, output),
    }
    if face.strength == 0.0 {
        FrameRange::push(&mut report.frames_turned_away, output);
    } else if strength == 0.0 {
        FrameRange::push(&mut report.frames_silent, output);
    }
}
