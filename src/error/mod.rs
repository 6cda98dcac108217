//! The engine's error: those of the layers below it, with what a caller decides by.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;

#[cfg(feature = "media")]
use crate::media;
use crate::{audio, face, input, options, request, system, weights};

/// The result of the engine's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a job or of loading a model: the error of the layer where it happened. An error of the operating system
/// or the device is always [`Error::System`], whichever layer met it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Option(#[from] options::InvalidOption),

    #[error(transparent)]
    Request(request::Error),

    #[error(transparent)]
    Input(input::Error),

    #[error(transparent)]
    Weights(weights::Error),

    #[error(transparent)]
    Face(face::Error),

    #[cfg(feature = "media")]
    #[error(transparent)]
    Media(media::Error),

    #[error(transparent)]
    Audio(audio::Error),

    #[error(transparent)]
    System(#[from] system::Error),

    #[error(
        "the generated face for frame {frame} (of 25 a second) has values that are not finite: the networks overflowed"
    )]
    FaceNotFinite { frame: usize },

    /// An error about the job's video or voice.
    #[error(transparent)]
    InInput(InputError),

    /// A condition that the program itself must prevent.
    #[error("{0}")]
    Internal(String),
}

/// Class of an error: who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Options or a request that cannot be used.
    Usage,
    /// A file that cannot be read or written, or whose content cannot be used.
    Input,
    /// Model files.
    Model,
    /// The compute device, its memory, or an encoder.
    Device,
    /// The job was cancelled.
    Interrupted,
    /// A fault of the program.
    Internal,
}

/// One of a job's two inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputRole {
    Video,
    Voice,
}

/// An error together with the input that it is about. Message and causes are those of the error.
#[derive(Debug)]
pub struct InputError {
    role: InputRole,
    error: Box<Error>,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl StdError for InputError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Option(_) => ErrorKind::Usage,
            Error::Request(error) => match error {
                request::Error::Refused { .. } => ErrorKind::Usage,
                request::Error::System(error) => system_kind(error),
            },
            Error::Input(error) => match error {
                input::Error::Fetch { .. } => ErrorKind::Input,
                input::Error::System(error) => system_kind(error),
            },
            Error::Weights(error) => weights_kind(error),
            Error::Face(error) => match error {
                face::Error::Anchors { .. }
                | face::Error::Missing { .. }
                | face::Error::NoReferenceFace { .. } => ErrorKind::Input,
                face::Error::Model(_) => ErrorKind::Model,
                face::Error::ReferenceSearch { .. } | face::Error::Search { .. } => ErrorKind::Device,
                face::Error::Weights(error) => weights_kind(error),
                face::Error::System(error) => system_kind(error),
            },
            #[cfg(feature = "media")]
            Error::Media(error) => media_kind(error),
            Error::Audio(error) => match error {
                audio::Error::System(error) => system_kind(error),
                #[cfg(feature = "media")]
                audio::Error::Media(error) => media_kind(error),
                audio::Error::Unreadable { .. }
                | audio::Error::Empty { .. }
                | audio::Error::Sample { .. }
                | audio::Error::Truncated { .. }
                | audio::Error::NotWav { .. } => ErrorKind::Input,
            },
            Error::System(error) => system_kind(error),
            Error::FaceNotFinite { .. } => ErrorKind::Device,
            Error::InInput(error) => error.error.kind(),
            Error::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The input that the error is about. `None` for errors about anything else, such as the output, and for errors
    /// from outside a job.
    pub fn input_role(&self) -> Option<InputRole> {
        match self {
            Error::InInput(error) => Some(error.role),
            _ => None,
        }
    }

    /// The error itself where it is tagged with an input.
    pub fn without_role(&self) -> &Error {
        match self {
            Error::InInput(error) => error.error.without_role(),
            error => error,
        }
    }

    pub fn is_interrupted(&self) -> bool {
        self.kind() == ErrorKind::Interrupted
    }

    /// Whether the output's disk is full. The same job may succeed once there is space.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.without_role(), Error::System(system::Error::DiskFull { .. }))
    }

    /// Whether a computation failed because the device had no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.without_role(), Error::System(error) if error.is_out_of_memory())
    }

    /// Tags an error of reading the input `role`. Other errors, which are not the input's fault, stay untagged.
    pub fn in_input(mut self, role: InputRole) -> Self {
        let is_fetch = matches!(self, Error::Input(input::Error::Fetch { .. }));
        let is_of_input = is_fetch || self.input_path_mut().is_some();
        match self {
            Error::InInput(_) => self,
            error if is_of_input => Error::InInput(InputError { role, error: Box::new(error) }),
            error => error,
        }
    }

    /// The path of the file that could not be read or used.
    fn input_path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            #[cfg(feature = "media")]
            Error::Media(
                media::Error::NotMedia { path, .. }
                | media::Error::NoVideoStream { path }
                | media::Error::NoAudioStream { path }
                | media::Error::NoFrames { path, .. }
                | media::Error::Picture { path, .. }
                | media::Error::HighDynamicRange { path, .. }
                | media::Error::EncodeSound { path, .. },
            ) => Some(path),
            Error::Audio(
                audio::Error::Unreadable { path, .. }
                | audio::Error::Empty { path }
                | audio::Error::Sample { path, .. }
                | audio::Error::Truncated { path, .. }
                | audio::Error::NotWav { path },
            ) => Some(path),
            Error::System(system::Error::ReadFile { path, .. }) => Some(path),
            Error::InInput(error) => error.error.input_path_mut(),
            _ => None,
        }
    }

    /// Puts the name that the user gave in place of a temporary file's, in an error about `local`.
    pub fn naming(mut self, local: &input::LocalInput) -> Self {
        if let Some(path) = self.input_path_mut().filter(|path| **path == local.path()) {
            *path = local.input().to_string().into();
        }
        self
    }
}

fn system_kind(error: &system::Error) -> ErrorKind {
    match error {
        system::Error::ReadFile { .. } | system::Error::WriteFile { .. } | system::Error::DiskFull { .. } => {
            ErrorKind::Input
        }
        system::Error::Interrupted => ErrorKind::Interrupted,
        system::Error::Device { .. } | system::Error::Memory { .. } | system::Error::Compute { .. } => {
            ErrorKind::Device
        }
    }
}

fn weights_kind(error: &weights::Error) -> ErrorKind {
    match error {
        weights::Error::DemoIsBuiltIn
        | weights::Error::UnknownPackage { .. }
        | weights::Error::Manifest(_)
        | weights::Error::NoDemoModel
        | weights::Error::StorageType(_)
        | weights::Error::OutputExists { .. } => ErrorKind::Usage,
        weights::Error::System(error) => system_kind(error),
        _ => ErrorKind::Model,
    }
}

#[cfg(feature = "media")]
fn media_kind(error: &media::Error) -> ErrorKind {
    match error {
        media::Error::NoEncoder { .. } | media::Error::NoHardwareEncoder { .. } => ErrorKind::Device,
        media::Error::NotResumable { .. } | media::Error::JournalVersion { .. } => ErrorKind::Usage,
        media::Error::System(error) => system_kind(error),
        _ => ErrorKind::Input,
    }
}

/// Conversions from the layers' errors. What a layer passes on from a lower one becomes that layer's variant here, so
/// that each failure has one form.
macro_rules! wrap {
    ($($(#[$cfg:meta])* $variant:ident($layer:ident) $(from $inner:ident)*;)+) => {
        $($(#[$cfg])* impl From<$layer::Error> for Error {
            fn from(error: $layer::Error) -> Self {
                match error {
                    $($layer::Error::$inner(error) => error.into(),)*
                    error => Self::$variant(error),
                }
            }
        })+
    };
}

wrap! {
    Request(request) from System;
    Input(input) from System;
    Weights(weights) from System;
    Face(face) from System from Weights;
    #[cfg(feature = "media")]
    Media(media) from System;
}

impl From<audio::Error> for Error {
    fn from(error: audio::Error) -> Self {
        match error {
            #[cfg(feature = "media")]
            audio::Error::Media(error) => error.into(),
            audio::Error::System(error) => error.into(),
            error => Self::Audio(error),
        }
    }
}

/// Error of a failed write, see [`system::write_error`].
#[cfg(feature = "media")]
pub(crate) fn write_error(path: &std::path::Path, source: std::io::Error) -> Error {
    system::write_error(path, source).into()
}

/// Returns a function that adds a stage's name to the error of a failed computation.
pub(crate) fn compute(stage: &'static str) -> impl Fn(candle_core::Error) -> Error {
    move |source| Error::System(system::Error::Compute { stage, source: source.into() })
}

/// Returns a function that tags errors of reading the input `role`.
#[cfg(feature = "media")]
pub(crate) fn in_input<E: Into<Error>>(role: InputRole) -> impl Fn(E) -> Error {
    move |error| error.into().in_input(role)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn read_file() -> system::Error {
        system::Error::ReadFile { path: "clip.mp4".into(), source: std::io::ErrorKind::NotFound.into() }
    }

    #[test]
    fn an_error_of_the_system_has_one_form_in_every_layer() {
        let of_layers: [Error; 5] = [
            weights::Error::System(read_file()).into(),
            face::Error::from(weights::Error::System(read_file())).into(),
            audio::Error::System(read_file()).into(),
            input::Error::System(read_file()).into(),
            request::Error::System(read_file()).into(),
        ];
        for error in of_layers {
            assert!(matches!(error, Error::System(system::Error::ReadFile { .. })), "{error:?}");
        }
    }

    #[test]
    fn a_tag_changes_neither_kind_nor_message_nor_causes() {
        let tagged = Error::from(read_file()).in_input(InputRole::Voice);
        assert_eq!(tagged.input_role(), Some(InputRole::Voice));
        assert_eq!(tagged.kind(), ErrorKind::Input);
        assert_eq!(tagged.to_string(), "cannot read `clip.mp4`");
        assert!(tagged.source().is_some_and(|cause| cause.is::<std::io::Error>()));
        assert!(matches!(tagged.without_role(), Error::System(_)));
        // The place where the error happened is nearer to the truth than a caller.
        assert_eq!(tagged.in_input(InputRole::Video).input_role(), Some(InputRole::Voice));
    }

    #[test]
    fn errors_that_are_no_input_s_fault_are_not_tagged() {
        for error in [
            system::Error::Interrupted,
            system::Error::DiskFull { path: PathBuf::new() },
            system::Error::WriteFile { path: PathBuf::new(), source: std::io::ErrorKind::NotFound.into() },
            system::Error::Memory { needed: 2, available: 1 },
        ] {
            let error = Error::from(error).in_input(InputRole::Video);
            assert_eq!(error.input_role(), None, "{error:?}");
        }
    }
}
