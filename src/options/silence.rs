//! The mouth during silence.

use crate::options::named_enum::named_enum;

named_enum! {
    /// What the mouth does while the voice is silent.
    #[derive(Default)]
    pub enum SilenceMode: "silence" {
        /// The mouth is animated from whatever is audible, including breath and noise, as in the original.
        #[default]
        Follow = "follow",
        /// The original mouth of the video is kept.
        Keep = "keep",
        /// The model receives digital silence and closes the mouth.
        Close = "close",
    }
}
