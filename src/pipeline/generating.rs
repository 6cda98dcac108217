//! The caller's thread: stages 4 to 6, chunk by chunk, stage 5 for several chunks together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::SyncSender;

use candle_core::{Device, Tensor};

use super::writing::{Synced, SyncedFace, SyncedFrame};
use super::{CHUNKS_PER_SEGMENT, Done, Heard, Run};
use crate::error::{Error, InputRole, Result, compute};
use crate::face::record::FaceRecord;
use crate::face::track::Found;
use crate::media;
use crate::options::FrameRange;
use crate::pipeline::LipSync;
use crate::pipeline::progress::Meter;
use crate::pipeline::report::{FaceReport, Stage};
use crate::pipeline::run_error::RunError;
use crate::pipeline::source_frames::{Next, SourceFace, SourceFrame, SourceFrames};
use crate::stages::colour_match::ColourCorrection;
use crate::stages::decode_latents::decode_faces;
use crate::stages::denoise_latents::{ChunkInputs, Denoiser};
use crate::stages::encode_latents::{ChunkFace, conditioning, encode_face};
use crate::stages::noise::NoiseFor;
use crate::system::cancel::CancelToken;
use crate::weights::known_faces;

/// The output frames whose mouths see each other in the UNet.
struct Chunk {
    number: usize,
    /// Numbers of the output frames.
    outputs: Range<usize>,
    frames: Vec<SourceFrame>,
    /// They are in the output already: a killed job got so far.
    is_done: bool,
    /// Fewer than a full chunk has, where the output ends.
    is_last: bool,
}

impl Chunk {
    fn ends_segment(&self) -> bool {
        (self.number + 1).is_multiple_of(CHUNKS_PER_SEGMENT)
    }

    /// Whether those that follow go through the networks by themselves. Segments are whole batches, so that a job that
    /// is gone on with computes in the same batches as one that was not killed.
    fn ends_batch(&self) -> bool {
        self.is_done || self.is_last || self.ends_segment()
    }
}

/// What is to become a chunk.
struct Wanted {
    number: usize,
    /// As many as a full chunk has.
    outputs: Range<usize>,
    /// They are in the output already: a killed job got so far.
    is_done: bool,
}

/// A model frame whose picture has a face.
#[derive(Clone, Copy)]
struct ModelFrame {
    number: usize,
    /// The picture's place in its chunk.
    picture: usize,
}

/// What the UNet has made for a chunk.
struct Generated {
    /// At least one.
    model_frames: Vec<ModelFrame>,
    /// (1, model frames, height, width, channels)
    latents: Tensor,
    /// How many chunks went through the UNet with this one, itself included.
    together: usize,
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
    ) -> Result<Done, RunError> {
        let steps = self.schedule.timesteps().len();
        let mut together = heard.together;
        let (mut number, mut is_last) = (0, false);
        while !is_last {
            let mut batch: Vec<Chunk> = Vec::with_capacity(together);
            while batch.len() < together && !batch.last().is_some_and(Chunk::ends_batch) {
                let first = number * self.model.chunk_frames;
                let outputs = heard.timing.outputs(first..first + self.model.chunk_frames);
                // Segments end with chunks: one that has begun before is done.
                let is_done = outputs.start < done.resumed_frames;
                let wanted = Wanted { number, outputs, is_done };
                batch.push(self.next_chunk(wanted, heard, sources, stop, meter)?);
                number += 1;
            }
            let generated = self.denoise(&mut batch, &mut together, heard, stop, meter)?;
            let end = batch.last().map_or(0, |last| last.outputs.end);
            meter.tell(Stage::DenoiseLatents, end * steps);
            for (chunk, generated) in batch.into_iter().zip(generated) {
                is_last = chunk.is_last;
                done.frames = chunk.outputs.end;
                let mouths = match generated {
                    Some(generated) => {
                        done.batch_chunks = done.batch_chunks.max(generated.together);
                        self.check_likeness(&chunk, &generated, &mut done)?;
                        self.mouths(&chunk, &generated, stop)?
                    }
                    None => Vec::new(),
                };
                meter.tell(Stage::DecodeLatents, done.frames);
                // Nobody waits for the end of a segment that is the output's.
                let ends_segment = chunk.ends_segment() && !chunk.is_done && !chunk.is_last;
                let is_done = chunk.is_done;
                for (output, frame) in chunk.outputs.zip(chunk.frames) {
                    let frame = self.finish_frame(output, frame, heard, &mouths, &mut done);
                    if !is_done && synced.send(Synced::Frame(frame)).is_err() {
                        return Ok(done);
                    }
                    meter.forward();
                }
                if ends_segment && synced.send(Synced::EndOfSegment).is_err() {
                    return Ok(done);
                }
            }
        }
        if done.frames == 0 {
            let error = media::Error::NoFrames { path: self.fetched.video().to_path_buf(), damaged: 0 };
            return Err(Error::from(error).in_input(InputRole::Video).into());
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
    ) -> Result<Chunk, RunError> {
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
        Ok(Chunk { number, outputs, frames, is_done, is_last })
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

    /// Stage 5: new latents for each chunk, where any would show. Chunks with equally many faces go through the UNet
    /// together, at most `together` of them, which becomes less where the device has no room for so many.
    fn denoise(
        &self,
        batch: &mut [Chunk],
        together: &mut usize,
        heard: &Heard,
        stop: &CancelToken,
        meter: &mut Meter,
    ) -> Result<Vec<Option<Generated>>> {
        let wanted = batch.iter_mut().map(|chunk| self.model_frames(chunk, heard));
        let mut wanted = wanted.collect::<Result<Vec<_>>>()?;
        let denoiser = Denoiser {
            unet: &self.model.unet,
            schedule: &self.schedule,
            guidance: self.job.options.guidance(),
            deepcache: self.job.options.deepcache,
            device: &self.model.device,
            cancel: stop,
        };
        let steps = self.schedule.timesteps().len();
        // Steps times output frames, as the stage counts.
        let mut finished = batch.first().map_or(0, |chunk| chunk.outputs.start) * steps;
        let mut told = finished;
        let mut generated: Vec<Option<Generated>> = batch.iter().map(|_| None).collect();
        let counts: Vec<usize> = wanted.iter().map(Vec::len).collect();
        let mut waiting = runs(&counts);
        while let Some(run) = waiting.pop() {
            let inputs = run.iter().map(|&place| self.chunk_inputs(&batch[place], &wanted[place], heard));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let frames: usize = run.iter().map(|&place| batch[place].outputs.len()).sum();
            let latents = self.clock.time(Stage::DenoiseLatents, || {
                denoiser.run(&inputs, |step| {
                    // A second attempt does not tell of what the first one told already.
                    told = told.max(finished + step * frames);
                    meter.tell(Stage::DenoiseLatents, told);
                    meter.forward();
                })
            });
            match latents {
                Ok(latents) => {
                    finished += steps * frames;
                    let together = run.len();
                    for (place, latents) in run.into_iter().zip(latents) {
                        let model_frames = std::mem::take(&mut wanted[place]);
                        generated[place] = Some(Generated { model_frames, latents, together });
                    }
                }
                // The estimate cannot know everything, and others take memory as well.
                Err(error) if error.is_out_of_memory() && run.len() > 1 => {
                    let (some, others) = run.split_at(run.len() / 2);
                    *together = others.len().min(*together);
                    tracing::warn!("no memory for {} chunks together: {} from now on", run.len(), *together);
                    waiting.extend([others.to_vec(), some.to_vec()]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(generated)
    }

    /// The model frames of one chunk whose pictures have a face, with what the VAE says of it. None where no mouth would
    /// show.
    fn model_frames(&self, chunk: &mut Chunk, heard: &Heard) -> Result<Vec<ModelFrame>> {
        let outputs = chunk.outputs.clone();
        let shows = |(output, frame): (usize, &SourceFrame)| self.strength(output, frame, heard) > 0.0;
        if chunk.is_done || !outputs.clone().zip(&chunk.frames).any(shows) {
            return Ok(Vec::new());
        }
        let first = chunk.number * self.model.chunk_frames;
        let end = (first + self.model.chunk_frames).min(heard.timing.model_frames(outputs.end));
        let mut with_face = Vec::with_capacity(end.saturating_sub(first));
        for number in first..end {
            let picture = heard.timing.picture_of(number, &outputs) - outputs.start;
            let frame = &mut chunk.frames[picture];
            // Most have been; not those that were skipped the first time.
            self.encode(frame)?;
            if frame.face.is_some() {
                with_face.push(ModelFrame { number, picture });
            }
        }
        Ok(with_face)
    }

    /// Stage 6, for what the UNet has made for one chunk.
    fn mouths(&self, chunk: &Chunk, generated: &Generated, stop: &CancelToken) -> Result<Vec<Mouth>> {
        let Generated { model_frames, latents, .. } = generated;
        if let Some(look) = self.hooks.latents {
            look(chunk.number, latents);
        }
        let numbers: Vec<usize> = model_frames.iter().map(|frame| frame.number).collect();
        let decode = || decode_faces(&self.model.vae, latents, &numbers, || Ok(stop.check()?));
        let decoded = self.clock.time(Stage::DecodeLatents, decode)?;
        let crop = |frame: &ModelFrame| Some(&chunk.frames[frame.picture].face.as_ref()?.crop);
        let pairs: Vec<_> = decoded.iter().zip(model_frames.iter().filter_map(crop)).collect();
        let colours = match &self.colours {
            Some(matcher) => matcher.corrections(&pairs).map_err(compute("the colour match"))?,
            None => vec![ColourCorrection::NONE; decoded.len()],
        };
        let mouths = numbers.into_iter().zip(decoded).zip(colours);
        Ok(mouths.map(|((model_frame, decoded), colour)| Mouth { model_frame, decoded, colour }).collect())
    }

    /// With the job's first face, says whether the model knows such.
    fn check_likeness(&self, chunk: &Chunk, generated: &Generated, done: &mut Done) -> Result<()> {
        let Some(known) = self.model.known_faces.as_ref().filter(|_| !done.likeness_checked) else {
            return Ok(());
        };
        let faces =
            generated.model_frames.iter().filter_map(|frame| chunk.frames[frame.picture].face.as_ref());
        if let Some(posteriors) = faces.filter_map(|face| face.record.posteriors.as_ref()).next() {
            done.likeness_checked = true;
            let is_known = posteriors.whole_mean().and_then(|latents| known.include(&latents));
            if !is_known.map_err(compute("known faces"))? {
                done.warnings.push(known_faces::WARNING.into());
            }
        }
        Ok(())
    }

    /// Noise, conditioning and audio of these model frames of a chunk.
    fn chunk_inputs(&self, chunk: &Chunk, model_frames: &[ModelFrame], heard: &Heard) -> Result<ChunkInputs> {
        let shape = self.model.latent_shape();
        // The encoder of the voice runs when a window is asked for.
        let windows = self.clock.time(Stage::AudioFeatures, || {
            let windows = model_frames.iter().map(|frame| heard.features.window(frame.number));
            windows.collect::<Result<Vec<_>>>()
        })?;
        let faces = model_frames.iter().filter_map(|frame| {
            let face = chunk.frames[frame.picture].face.as_ref()?;
            Some(ChunkFace { model_frame: frame.number, posteriors: face.record.posteriors.as_ref()? })
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

/// Chunks that can share a tensor: for each number of faces but none, the places in their batch of the chunks that have
/// so many.
fn runs(faces: &[usize]) -> Vec<Vec<usize>> {
    let mut runs = BTreeMap::<usize, Vec<usize>>::new();
    for (place, &count) in faces.iter().enumerate() {
        if count > 0 {
            runs.entry(count).or_default().push(place);
        }
    }
    runs.into_values().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_equally_many_faces_go_together() {
        assert_eq!(runs(&[16, 16, 9, 16]), [vec![2], vec![0, 1, 3]]);
        assert_eq!(runs(&[0, 3, 0, 3, 5]), [vec![1, 3], vec![4]]);
        assert_eq!(runs(&[7]), [vec![0]]);
        assert!(runs(&[0, 0]).is_empty() && runs(&[]).is_empty());
    }

    #[test]
    fn a_batch_ends_with_its_segment_and_with_the_output() {
        let ends = |number, is_done, is_last| {
            Chunk { number, outputs: 0..0, frames: Vec::new(), is_done, is_last }.ends_batch()
        };
        let numbers: Vec<usize> = (0..40).filter(|&number| ends(number, false, false)).collect();
        assert_eq!(numbers, [14, 29]);
        assert!(ends(3, true, false) && ends(3, false, true));
    }
}
