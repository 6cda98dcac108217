//! Hints: what the user can do about an error. Flags and commands are named here only.

use std::io;

use latentsync::input::FetchProblem;
use latentsync::weights::{DownloadCause, MissingPart, Package};
use latentsync::{Error, audio, bench, face, input, media, options, request, system, weights};

use super::failure::CommandError;

/// Less memory is enough with these.
const MEMORY_HINT: &str = "close other programs, or take less: `--dtype bf16`, or `--model latentsync-1.5` with its \
    smaller faces; in place of a GPU, `--device cpu` has the machine's memory";

/// The command that fetches the package called `model`.
pub fn pull_command(model: &str) -> String {
    let consent = if model == Package::InsightFace.name() { " --accept-insightface-license" } else { "" };
    format!("latentsync models pull {model}{consent}")
}

pub fn of_engine(error: &Error) -> Option<String> {
    match error.without_role() {
        Error::System(error) => of_system(error),
        Error::Option(options::InvalidOption::Value { .. } | options::InvalidOption::Extension { .. }) => {
            None
        }
        Error::Request(request::Error::Refused { source, .. }) if source.is_ambiguous_api() => {
            Some("`--request-api` says whose body this is".into())
        }
        Error::Input(input::Error::Fetch { problem, .. }) => Some(of_fetch(problem).into()),
        Error::Weights(error) => of_weights(error),
        Error::Face(error) => of_face(error),
        Error::Media(error) => of_media(error).map(str::to_string),
        Error::Audio(error) => of_audio(error).map(str::to_string),
        Error::FaceNotFinite { .. } => Some("try `--dtype f32` or `--dtype bf16`: f16 ends at 65504".into()),
        _ => None,
    }
}

pub fn of_bench(error: &bench::Error) -> Option<String> {
    let hint = match error {
        bench::Error::Engine(error) => return of_engine(error),
        bench::Error::Record { .. } => "`latentsync bench --out FILE` writes one",
        bench::Error::Peer { cause, .. } => match cause {
            bench::PeerCause::NoScript => {
                "run it in the project's directory, or name the script with `--peer-script`"
            }
            bench::PeerCause::NoPython => {
                "install Python 3.11 or newer with its `venv` module (Debian: `apt-get install python3 python3-venv`)"
            }
            bench::PeerCause::Failed => "its own messages are above",
            bench::PeerCause::Other => return None,
        },
        _ => return None,
    };
    Some(hint.into())
}

#[cfg(feature = "server")]
pub fn of_server(error: &latentsync::server::Error) -> Option<String> {
    match error {
        latentsync::server::Error::Engine(error) => of_engine(error),
        latentsync::server::Error::Listen { .. } => Some("choose another `--host` or `--port`".into()),
        _ => None,
    }
}

pub fn of_command(error: &CommandError) -> Option<String> {
    match error {
        CommandError::Usage(_) => None,
        CommandError::ModelsNotIntact { first, .. } => {
            Some(format!("`{}` replaces what is damaged", pull_command(first.name())))
        }
    }
}

fn of_system(error: &system::Error) -> Option<String> {
    let hint = match error {
        system::Error::Device { .. } => {
            "`latentsync doctor` lists what this machine and this build can compute on"
        }
        system::Error::Memory { .. } => MEMORY_HINT,
        error if error.is_out_of_memory() => MEMORY_HINT,
        system::Error::WriteFile { path, source } if source.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty())?;
            return Some(format!("`mkdir -p {}` creates its directory", parent.display()));
        }
        system::Error::WriteFile { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            "choose another directory, or move that file away"
        }
        system::Error::DiskFull { .. } => "free some space or choose an output on another disk",
        _ => return None,
    };
    Some(hint.into())
}

fn of_fetch(problem: &FetchProblem) -> &'static str {
    match problem {
        FetchProblem::BadUrl(_) => "give an address that begins with `http://` or `https://` and a host",
        FetchProblem::Status { status: 401 | 403 } => {
            "the link may have expired or need a login: ask for a new one"
        }
        FetchProblem::Status { status: 500.. }
        | FetchProblem::Refused
        | FetchProblem::Stalled(_)
        | FetchProblem::ConnectTimeout(_) => "whoever sends it may be busy: try again later",
        FetchProblem::Status { .. } => "open the link in a browser: the file may have been moved or removed",
        FetchProblem::WebPage => "give the address of the file itself, not of the page that shows it",
        FetchProblem::Playlist => "give the address of a single file: playlists are not followed",
        FetchProblem::TooManyRedirects(_) => "give the address where the redirects end",
        FetchProblem::TooLarge { .. } => "cut the file shorter, or download it and give the path",
        FetchProblem::TooSlow(_) => "download the file with a tool that resumes, and give the path",
        FetchProblem::NoSuchHost => "check the spelling of the host, and the network",
        FetchProblem::Tls(_) => {
            "the server's certificate is not trusted here: download the file by other means"
        }
        FetchProblem::PrivateAddress => "give the address of a public server",
        // `Truncated`, `Connection`.
        _ => "try again: the connection broke",
    }
}

fn of_weights(error: &weights::Error) -> Option<String> {
    Some(match error {
        weights::Error::NotPulled { model, .. } => format!("run `{}`", pull_command(model)),
        weights::Error::Incomplete { directory, part, .. } => match part {
            MissingPart::Unet => {
                "run `latentsync models pull latentsync-1.6` and use `--model latentsync-1.6`".into()
            }
            MissingPart::UnetConfig => "copy the file that the checkpoint was trained with (such as \
                 `configs/unet/stage2_512.yaml`) there"
                .into(),
            MissingPart::Vae | MissingPart::Whisper => format!(
                "run `latentsync models pull latentsync-1.6`, which fetches it for every directory, or copy it to `{}`",
                directory.display()
            ),
            MissingPart::VaeConfig => {
                "copy it from where the VAE is from; stabilityai/sd-vae-ft-mse has it beside the weights".into()
            }
            MissingPart::WhisperOfWidth(width) => format!(
                "the UNet listens to {width} channels (`cross_attention_dim`): copy the Whisper whose \
                 `n_audio_state` is {width} there"
            ),
        },
        weights::Error::Truncated { model: Some(model), .. } => format!("run `{}`", pull_command(model)),
        weights::Error::Truncated { model: None, .. } => {
            "copy the file again, or run `latentsync models pull latentsync-1.6` and use `--model latentsync-1.6`"
                .into()
        }
        weights::Error::DamagedDownload { model, .. } => format!("run `{}` again", pull_command(model)),
        weights::Error::Code { .. } => {
            "weights need no code: take the file from its publisher, `latentsync models pull latentsync-1.6`".into()
        }
        weights::Error::MissingKey { .. }
        | weights::Error::UnexpectedKeys { .. }
        | weights::Error::KeyShape { .. } => "the file belongs to another network or configuration".into(),
        weights::Error::ResolutionConflict { config, is, .. } => {
            format!("set `resolution: {is}` in {config}, or take the other model's checkpoint")
        }
        weights::Error::Download { repository, cause, .. } => match &**cause {
            DownloadCause::BadEndpoint => "check HF_ENDPOINT".into(),
            DownloadCause::AccessDenied => format!("set HF_TOKEN to a token that may read {repository}"),
            DownloadCause::NotFound { endpoint } => {
                format!("{endpoint} does not have it; is HF_ENDPOINT right?")
            }
            DownloadCause::RateLimited => "wait a little, or set HF_TOKEN".into(),
            DownloadCause::Connection { endpoint, model } => format!(
                "check the connection to {endpoint}; `{}` continues where it broke off",
                pull_command(model)
            ),
        },
        weights::Error::Offline { model } => {
            format!("unset HF_HUB_OFFLINE and run `{}` while connected", pull_command(model))
        }
        weights::Error::DiskFull { .. } => "free some space, or point HF_HOME at a larger disk".into(),
        weights::Error::LicenceNotAccepted => {
            "add `--accept-insightface-license` if your use is allowed; the default face detector needs no licence"
                .into()
        }
        weights::Error::DownloadBusy { .. } => "wait for it to finish, then run the command again".into(),
        _ => return None,
    })
}

fn of_face(error: &face::Error) -> Option<String> {
    let hint = match error {
        face::Error::Missing { .. } => {
            "`--on-missing-face pass` leaves such frames as they are, `hold` keeps the last place; `--face` chooses \
             another person"
        }
        face::Error::NoReferenceFace { .. } => {
            "take a picture that shows the face from the front, at least 50 pixels wide"
        }
        _ => return None,
    };
    Some(hint.into())
}

fn of_media(error: &media::Error) -> Option<&'static str> {
    Some(match error {
        media::Error::NotMedia { .. } => {
            "give a video, audio or image file that FFmpeg can play; a recording that was cut off may have lost its \
             index"
        }
        media::Error::NoVideoStream { .. } => "the video must have pictures: is this an audio file?",
        media::Error::NoAudioStream { .. } => "the voice must have sound: is this a silent video?",
        media::Error::NoFrames { .. } => "the file is damaged from its start; try another copy",
        media::Error::Picture { .. } => {
            "`ffmpeg -i FILE -pix_fmt yuv420p OUT.mp4` may make a usual video of it"
        }
        media::Error::HighDynamicRange { .. } => {
            "convert it to standard dynamic range (BT.709) first; the model knows no other"
        }
        media::Error::OutputIsInput { .. } => "write to another file",
        media::Error::NotEnoughDisk { .. } => "free some space or choose an output on another disk",
        media::Error::NoEncoder { .. } => {
            "install an FFmpeg that is built with it, as distributions' packages are"
        }
        media::Error::NoHardwareEncoder { .. } => {
            "`--encoder auto` takes software where there is no hardware for it"
        }
        media::Error::NotResumable { .. } => {
            "give the same inputs and settings as before, or start again without `--resume`"
        }
        media::Error::JournalVersion { .. } => {
            "start again without `--resume`, or resume with the version that was killed"
        }
        media::Error::OutputBusy { .. } => "wait for it to finish, or write to another file",
        _ => return None,
    })
}

fn of_audio(error: &audio::Error) -> Option<&'static str> {
    Some(match error {
        audio::Error::Empty { .. } => "the voice must have sound: is this recording empty?",
        audio::Error::Unreadable { .. } => {
            "if a player can play it, `ffmpeg -i FILE voice.wav` makes a WAV of it"
        }
        audio::Error::Sample { .. } => {
            "export the sound again, as 16-bit WAV: a filter on the way has failed"
        }
        audio::Error::Truncated { .. } => {
            "fetch the file again; `ffmpeg -i FILE voice.wav` keeps what there is of it"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(error: impl Into<Error>) -> String {
        of_engine(&error.into()).unwrap_or_default()
    }

    #[test]
    fn a_full_gpu_is_answered_with_what_takes_less_memory() {
        let failed = |message: &str| system::Error::Compute {
            stage: "denoise_latents",
            source: candle_core::Error::msg(message).into(),
        };
        let full = failed("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(hint(full).contains("--device cpu"));
        let other =
            failed("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")");
        assert_eq!(hint(other), "");
        assert!(hint(system::Error::Memory { needed: 2, available: 1 }).contains("--dtype bf16"));
    }

    #[test]
    fn hints_name_the_flag_or_the_command_that_helps() {
        let incomplete =
            |part| weights::Error::Incomplete { directory: "m".into(), part, looked_for: "x".into() };
        let truncated = |model: Option<&str>| weights::Error::Truncated {
            path: "w".into(),
            bytes: 1,
            expected: "2".into(),
            model: model.map(str::to_string),
        };
        let download = |cause| weights::Error::Download {
            repository: "owner/name".into(),
            file: "f".into(),
            cause: Box::new(cause),
            source: "no".into(),
        };
        let (endpoint, model) = ("https://hub".to_string(), "dlib".to_string());
        for (error, words) in [
            (Error::from(face::Error::Missing { frame: 1, seconds: 0.04 }), "--on-missing-face pass"),
            (Error::FaceNotFinite { frame: 1 }, "--dtype f32"),
            (media::Error::NotResumable { path: "o".into(), what: "its encoder" }.into(), "--resume"),
            (media::Error::JournalVersion { path: "o".into(), found: 1, expected: 2 }.into(), "--resume"),
            (weights::Error::LicenceNotAccepted.into(), "--accept-insightface-license"),
            (incomplete(MissingPart::Vae).into(), "fetches it for every directory, or copy it to `m`"),
            (incomplete(MissingPart::WhisperOfWidth(768)).into(), "`n_audio_state` is 768"),
            (truncated(Some("dlib")).into(), "run `latentsync models pull dlib`"),
            (truncated(None).into(), "copy the file again"),
            (download(DownloadCause::AccessDenied).into(), "a token that may read owner/name"),
            (
                download(DownloadCause::NotFound { endpoint: endpoint.clone() }).into(),
                "is HF_ENDPOINT right?",
            ),
            (download(DownloadCause::RateLimited).into(), "set HF_TOKEN"),
            (
                download(DownloadCause::Connection { endpoint, model }).into(),
                "check the connection to https://hub; `latentsync models pull dlib` continues where it broke off",
            ),
            (
                weights::Error::NotPulled {
                    model: "insightface".into(),
                    file: "f".into(),
                    cache: "c".into(),
                }
                .into(),
                "run `latentsync models pull insightface --accept-insightface-license`",
            ),
        ] {
            assert!(hint(error).contains(words), "{words}");
        }
    }
}
