//! eachlabs' `latentsync`: fal's input in the field `input`, beside the model's name and the webhook's URL.

use super::fields::Fields;
use super::{Api, FieldError, Request, fal};

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    match body.string("model")? {
        None | Some("latentsync") => {}
        Some(model) => {
            return Err(FieldError::new(
                &body.path("model"),
                &format!("is `{model}`: it must be `latentsync`"),
            ));
        }
    }
    let input = body.required("input", body.object("input")?)?;
    Ok(Request { api: Api::Eachlabs, ..fal::parse(&input)? })
}
