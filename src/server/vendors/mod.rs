//! The hosted APIs, one directory each, and their table.
//!
//! To add a vendor, add a directory with an implementation of [`Vendor`] and a row to [`VENDORS`]. The format
//! of its request bodies, which the command line reads too, is a row and a file of
//! [`request`](crate::request).

mod fal;
mod eachlabs;
mod wavespeed;
mod jogg;
mod sync_so;

use std::path::Path;

use serde_json::Value;

use super::jobs::{ApiHooks, DataDir, JobRecord, Outcome};
use super::vendor::Vendor;
use crate::request::Api;
use crate::server::Result;

/// Every vendor, in the order of the documentation.
pub static VENDORS: [&dyn Vendor; 5] =
    [&fal::Fal, &eachlabs::Eachlabs, &wavespeed::Wavespeed, &jogg::Jogg, &sync_so::SyncSo];

/// The vendor whose request format is `api`.
pub fn vendor_of(api: Api) -> Option<&'static dyn Vendor> {
    VENDORS.into_iter().find(|vendor| vendor.apis().contains(&api))
}

/// Answers the job core through the vendors.
pub struct VendorHooks;

impl ApiHooks for VendorHooks {
    fn output_name(&self, api: Api, body: &Value) -> Option<String> {
        vendor_of(api)?.output_name(body)
    }

    fn after_success(&self, job: &JobRecord, result: &Path, files: &DataDir) -> Result<()> {
        vendor_of(job.api).map_or(Ok(()), |vendor| vendor.after_success(job, result, files))
    }

    fn endpoint_event(&self, api: Api, outcome: &Outcome) -> Option<&'static str> {
        vendor_of(api)?.endpoint_event(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_has_exactly_one_vendor() {
        for api in Api::ALL {
            let count = VENDORS.into_iter().filter(|vendor| vendor.apis().contains(&api)).count();
            assert_eq!(count, 1, "{api}");
        }
    }
}
