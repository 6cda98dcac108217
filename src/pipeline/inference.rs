//! Inference on the caller's thread: stages 4 to 6, chunk by chunk; stage 5 processes several chunks per
//! batch.

use std::sync::mpsc::SyncSender;

use candle_core::{Device, Tensor};

use crate::error::{Error, InputRole, Result, compute};
use crate::face::cache::FaceCacheWriter;
use crate::face::record::FaceRecord;
use crate::face::track::Found;
use crate::media;
use crate::options::FrameRange;
use crate::pipeline::LipSync;
use crate::pipeline::audio_plan::AudioPlan;
use crate::pipeline::chunk::{Chunk, ChunkPlan, GeneratedChunk, ModelFrame, Mouth, group_by_faces};
use crate::pipeline::job_context::JobContext;
use crate::pipeline::progress::ProgressReporter;
use crate::pipeline::report::{FaceReport, Stage};
use crate::pipeline::run_error::RunError;
use crate::pipeline::sink_thread::{GeneratedFace, OutputFrame, SinkMessage};
use crate::pipeline::source_frames::{NextFrame, SourceFace, SourceFrame, SourceFrames};
use crate::stages::colour_match::ColourCorrection;
use crate::stages::decode_latents::decode_faces;
use crate::stages::denoise_latents::{ChunkInputs, Denoiser};
use crate::stages::encode_latents::{ChunkFace, conditioning, encode_face};
use crate::stages::noise::NoiseFor;
use crate::system::cancel::CancelToken;
use crate::weights::known_faces;

/// Runs the networks on the caller's thread.
pub(super) struct Inference<'a, 'p> {
    pub context: &'a JobContext<'a>,
    pub audio: &'a AudioPlan,
    pub sources: SourceFrames,
    pub output: SyncSender<SinkMessage>,
    /// Cancelled with the job, or when the sink fails.
    pub stop: &'a CancelToken,
    /// Maximum number of chunks per batch. Reduced when the device runs out of memory.
    pub batch_chunks: usize,
    pub summary: RunSummary,
    pub progress: &'a mut ProgressReporter<'p>,
}

/// Results of a run, for the report.
#[derive(Default)]
pub(super) struct RunSummary {
    pub frames: usize,
    pub source_frames: usize,
    pub fps: f64,
    pub resumed_frames: usize,
    pub faces_from_cache: bool,
    /// Largest number of chunks in one UNet batch.
    pub batch_chunks: usize,
    pub faces: FaceReport,
    /// Whether the first face has been compared with the model's training faces.
    pub similarity_checked: bool,
    pub warnings: Vec<String>,
    /// Warnings of inference, which the report lists last.
    pub inference_warnings: Vec<String>,
}

impl Inference<'_, '_> {
    /// Processes all chunks. Also returns the new entry of the face cache, complete if the job read the whole
    /// video.
    pub fn run(mut self) -> (Result<RunSummary, RunError>, Option<FaceCacheWriter>) {
        let result = self.process_chunks();
        (result.map(|()| self.summary), self.sources.into_cache())
    }

    fn process_chunks(&mut self) -> Result<(), RunError> {
        let mut next_chunk = 0;
        let mut is_last = false;
        while !is_last {
            let mut batch = self.read_batch(&mut next_chunk)?;
            let generated = self.denoise(&mut batch)?;
            let end = batch.last().map_or(0, |last| last.outputs.end);
            self.progress.report(Stage::DenoiseLatents, end * self.steps());
            for (chunk, generated) in batch.into_iter().zip(generated) {
                is_last = chunk.is_last;
                if !self.finish_chunk(chunk, generated)? {
                    // The sink is gone; its own error is reported.
                    return Ok(());
                }
            }
        }
        if self.summary.frames == 0 {
            let path = self.context.fetched.video().to_path_buf();
            let error = Error::from(media::Error::NoFrames { path, damaged: 0 });
            return Err(error.in_input(InputRole::Video).into());
        }
        self.summary.source_frames = self.sources.frames_read();
        Ok(())
    }

    fn steps(&self) -> usize {
        self.context.schedule.timesteps().len()
    }

    /// Reads chunks up to the end of the batch.
    fn read_batch(&mut self, next_chunk: &mut usize) -> Result<Vec<Chunk>, RunError> {
        let chunk_frames = self.context.model.chunk_frames;
        let mut batch: Vec<Chunk> = Vec::with_capacity(self.batch_chunks);
        while batch.len() < self.batch_chunks && !batch.last().is_some_and(Chunk::ends_batch) {
            let number = *next_chunk;
            let first = number * chunk_frames;
            let outputs = self.audio.frame_map.outputs(first..first + chunk_frames);
            // Segments consist of whole chunks, so a chunk is either done or not started.
            let is_done = outputs.start < self.summary.resumed_frames;
            batch.push(self.read_chunk(ChunkPlan { number, outputs, is_done })?);
            *next_chunk += 1;
        }
        Ok(batch)
    }

    /// Reads the next frames of the output and encodes their faces.
    fn read_chunk(&mut self, ChunkPlan { number, outputs, is_done }: ChunkPlan) -> Result<Chunk, RunError> {
        let frame_map = self.audio.frame_map;
        let mut frames = Vec::with_capacity(outputs.len());
        let mut is_last = false;
        for output in outputs.clone() {
            self.stop.check()?;
            self.progress.report_counters();
            let model_frame = frame_map.model_frame(output);
            // At rates above 25 the model does not use every frame.
            let is_used = !is_done && frame_map.source_output(model_frame, &outputs) == output;
            match self.sources.next(output)? {
                NextFrame::End => {
                    is_last = true;
                    break;
                }
                NextFrame::Repeated(mut frame) => {
                    if is_used {
                        encode(self.context, &mut frame)?;
                        self.sources.refresh(&frame);
                    }
                    frames.push(frame);
                }
                NextFrame::New(mut frame) => {
                    if is_used {
                        encode(self.context, &mut frame)?;
                    }
                    self.sources.keep(&frame)?;
                    self.progress.report(Stage::EncodeLatents, self.sources.frames_read());
                    frames.push(frame);
                }
            }
        }
        let outputs = outputs.start..outputs.start + frames.len();
        Ok(Chunk { number, outputs, frames, is_done, is_last })
    }

    /// Stage 5 for the chunks in which a generated mouth is visible. Chunks with equal numbers of faces share
    /// a UNet batch. If the device runs out of memory, the batch is halved, and later batches stay at that
    /// size.
    fn denoise(&mut self, batch: &mut [Chunk]) -> Result<Vec<Option<GeneratedChunk>>> {
        let model_frames = batch.iter_mut().map(|chunk| self.model_frames(chunk));
        let mut model_frames = model_frames.collect::<Result<Vec<_>>>()?;
        let context = self.context;
        let denoiser = Denoiser {
            unet: &context.model.unet,
            schedule: &context.schedule,
            guidance: context.job.options.guidance(),
            deepcache: context.job.options.deepcache,
            device: &context.model.device,
            cancel: self.stop,
        };
        let steps = self.steps();
        // In steps times output frames, the unit of the stage's progress.
        let mut finished = batch.first().map_or(0, |chunk| chunk.outputs.start) * steps;
        let mut reported = finished;
        let mut generated: Vec<Option<GeneratedChunk>> = batch.iter().map(|_| None).collect();
        let counts: Vec<usize> = model_frames.iter().map(Vec::len).collect();
        let mut groups = group_by_faces(&counts);
        while let Some(group) = groups.pop() {
            let inputs = self.group_inputs(&group, batch, &model_frames)?;
            let frames: usize = group.iter().map(|&position| batch[position].outputs.len()).sum();
            let latents = context.clock.time(Stage::DenoiseLatents, || {
                denoiser.run(&inputs, |step| {
                    // A second attempt does not report the steps of the first one again.
                    reported = reported.max(finished + step * frames);
                    self.progress.report(Stage::DenoiseLatents, reported);
                    self.progress.report_counters();
                })
            });
            match latents {
                Ok(latents) => {
                    finished += steps * frames;
                    let batch_chunks = group.len();
                    for (position, latents) in group.into_iter().zip(latents) {
                        let model_frames = std::mem::take(&mut model_frames[position]);
                        generated[position] = Some(GeneratedChunk { model_frames, latents, batch_chunks });
                    }
                }
                // The estimate is not exact, and other processes use the device as well.
                Err(error) if error.is_out_of_memory() && group.len() > 1 => {
                    groups.extend(self.halve(&group));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(generated)
    }

    /// Halves a group that did not fit in the memory of the device, and later batches with it. The first half
    /// is last.
    fn halve(&mut self, group: &[usize]) -> [Vec<usize>; 2] {
        let (first, second) = group.split_at(group.len() / 2);
        self.batch_chunks = second.len().min(self.batch_chunks);
        tracing::warn!(
            "out of memory with {} chunks per batch: reduced to {}",
            group.len(),
            self.batch_chunks
        );
        [second.to_vec(), first.to_vec()]
    }

    /// Inputs of the chunks of `batch` at the positions `group`.
    fn group_inputs(
        &self,
        group: &[usize],
        batch: &[Chunk],
        model_frames: &[Vec<ModelFrame>],
    ) -> Result<Vec<ChunkInputs>> {
        group.iter().map(|&position| self.chunk_inputs(&batch[position], &model_frames[position])).collect()
    }

    /// The model frames of a chunk whose source frames have a face, with the faces encoded. Empty if no
    /// generated mouth is visible in the chunk.
    fn model_frames(&self, chunk: &mut Chunk) -> Result<Vec<ModelFrame>> {
        let outputs = chunk.outputs.clone();
        let is_visible = |(output, frame): (usize, &SourceFrame)| self.strength(output, frame) > 0.0;
        if chunk.is_done || !outputs.clone().zip(&chunk.frames).any(is_visible) {
            return Ok(Vec::new());
        }
        let AudioPlan { frame_map, .. } = self.audio;
        let chunk_frames = self.context.model.chunk_frames;
        let first = chunk.number * chunk_frames;
        let end = (first + chunk_frames).min(frame_map.model_frames(outputs.end));
        let mut model_frames = Vec::with_capacity(end.saturating_sub(first));
        for number in first..end {
            let position = frame_map.source_output(number, &outputs) - outputs.start;
            let frame = &mut chunk.frames[position];
            // `read_chunk` has encoded most of them, but not those that it did not expect to be used.
            encode(self.context, frame)?;
            if frame.face.is_some() {
                model_frames.push(ModelFrame { number, position });
            }
        }
        Ok(model_frames)
    }

    /// Noise, conditioning and audio of the model frames of a chunk.
    fn chunk_inputs(&self, chunk: &Chunk, model_frames: &[ModelFrame]) -> Result<ChunkInputs> {
        let LipSync { vae, mask, .. } = self.context.model;
        let source = self.context.noise;
        let shape = self.context.model.latent_shape();
        // The audio encoder runs when a window is requested.
        let windows = self.context.clock.time(Stage::AudioFeatures, || {
            let windows = model_frames.iter().map(|frame| self.audio.features.window(frame.number));
            windows.collect::<Result<Vec<_>>>()
        })?;
        let faces = model_frames.iter().filter_map(|&frame| {
            let face = chunk.source(frame).face.as_ref()?;
            Some(ChunkFace { model_frame: frame.number, posteriors: face.record.posteriors.as_ref()? })
        });
        let faces: Vec<_> = faces.collect();
        let inputs = || {
            let noise = source.frame(NoiseFor::InitialLatents, 0, shape);
            let noise =
                Tensor::from_vec(noise, (1, 1, shape.height, shape.width, shape.channels), &Device::Cpu)?;
            Ok(ChunkInputs {
                noise: noise.repeat((1, faces.len(), 1, 1, 1))?,
                conditioning: conditioning(vae, mask, &faces, source)?,
                audio: Tensor::stack(&windows, 0)?.unsqueeze(0)?,
            })
        };
        self.context.clock.time(Stage::EncodeLatents, inputs).map_err(compute("encode_latents"))
    }

    /// Stage 6 for one chunk, whose frames are then sent to the sink. Returns false if the sink is gone.
    fn finish_chunk(&mut self, chunk: Chunk, generated: Option<GeneratedChunk>) -> Result<bool> {
        self.summary.frames = chunk.outputs.end;
        let mouths = match generated {
            Some(generated) => {
                self.summary.batch_chunks = self.summary.batch_chunks.max(generated.batch_chunks);
                self.check_similarity(&chunk, &generated)?;
                self.decode(&chunk, &generated)?
            }
            None => Vec::new(),
        };
        self.progress.report(Stage::DecodeLatents, self.summary.frames);
        // The last segment is ended by the end of the output.
        let ends_segment = chunk.ends_segment() && !chunk.is_done && !chunk.is_last;
        let is_done = chunk.is_done;
        for (output, frame) in chunk.outputs.zip(chunk.frames) {
            let frame = self.output_frame(output, frame, &mouths);
            if !is_done && self.output.send(SinkMessage::Frame(frame)).is_err() {
                return Ok(false);
            }
            self.progress.report_counters();
        }
        Ok(!ends_segment || self.output.send(SinkMessage::EndOfSegment).is_ok())
    }

    /// Decodes the latents of a chunk.
    fn decode(&self, chunk: &Chunk, generated: &GeneratedChunk) -> Result<Vec<Mouth>> {
        let GeneratedChunk { model_frames, latents, .. } = generated;
        if let Some(hook) = self.context.hooks.latents {
            hook(chunk.number, latents);
        }
        let numbers: Vec<usize> = model_frames.iter().map(|frame| frame.number).collect();
        let decode = || decode_faces(&self.context.model.vae, latents, &numbers, || Ok(self.stop.check()?));
        let decoded = self.context.clock.time(Stage::DecodeLatents, decode)?;
        let crop = |&frame: &ModelFrame| Some(&chunk.source(frame).face.as_ref()?.crop);
        let pairs: Vec<_> = decoded.iter().zip(model_frames.iter().filter_map(crop)).collect();
        let colours = match &self.context.colour_matcher {
            Some(matcher) => matcher.corrections(&pairs).map_err(compute("the colour match"))?,
            None => vec![ColourCorrection::NONE; decoded.len()],
        };
        let mouths = numbers.into_iter().zip(decoded).zip(colours);
        Ok(mouths.map(|((model_frame, decoded), colour)| Mouth { model_frame, decoded, colour }).collect())
    }

    /// Warns if the job's first face differs from the faces that the model was trained on.
    fn check_similarity(&mut self, chunk: &Chunk, generated: &GeneratedChunk) -> Result<()> {
        let known_faces = self.context.model.known_faces.as_ref();
        let Some(known) = known_faces.filter(|_| !self.summary.similarity_checked) else {
            return Ok(());
        };
        let faces = generated.model_frames.iter().filter_map(|&frame| chunk.source(frame).face.as_ref());
        if let Some(posteriors) = faces.filter_map(|face| face.record.posteriors.as_ref()).next() {
            self.summary.similarity_checked = true;
            let is_known = posteriors.whole_mean().and_then(|latents| known.include(&latents));
            if !is_known.map_err(compute("known faces"))? {
                self.summary.inference_warnings.push(known_faces::WARNING.into());
            }
        }
        Ok(())
    }

    /// Opacity of the generated mouth in an output frame.
    fn strength(&self, output: usize, frame: &SourceFrame) -> f32 {
        let seconds = output as f64 / self.audio.frame_map.frames_per_second();
        let voice = self.audio.activity.as_ref().map_or(1.0, |activity| activity.strength(seconds));
        frame.face.as_ref().map_or(0.0, |face| face.record.strength) * voice
    }

    /// Combines a frame with the mouth nearest to its time, and adds the frame to the face report.
    fn output_frame(&mut self, output: usize, frame: SourceFrame, mouths: &[Mouth]) -> OutputFrame {
        let strength = self.strength(output, &frame);
        let record = frame.face.as_ref().map(|face| &face.record);
        add_to_report(&mut self.summary.faces, output, record, strength);
        let model_frame = self.audio.frame_map.model_frame(output);
        let mouth = mouths.iter().min_by_key(|mouth| mouth.model_frame.abs_diff(model_frame));
        let face = match (frame.face, mouth) {
            (Some(SourceFace { crop, record }), Some(mouth)) if strength > 0.0 => Some(GeneratedFace {
                decoded: mouth.decoded.clone(),
                colour: mouth.colour,
                crop,
                matrix: record.matrix,
                strength,
            }),
            _ => None,
        };
        OutputFrame { number: output, picture: frame.picture, face }
    }
}

/// Stage 4 for a face that has not been encoded yet.
fn encode(context: &JobContext, frame: &mut SourceFrame) -> Result<()> {
    let LipSync { vae, device, mask, .. } = context.model;
    let Some(face) = frame.face.as_mut().filter(|face| face.record.posteriors.is_none()) else {
        return Ok(());
    };
    let posteriors = context.clock.time(Stage::EncodeLatents, || encode_face(vae, device, mask, &face.crop));
    face.record.posteriors = Some(posteriors.map_err(compute("encode_latents"))?);
    Ok(())
}

/// Adds an output frame to the face report. `strength`: opacity of its generated mouth.
fn add_to_report(report: &mut FaceReport, output: usize, face: Option<&FaceRecord>, strength: f32) {
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
