//! To be written: see the skeleton's plan.
