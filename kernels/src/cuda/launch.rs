//! One launch of a kernel: its geometry, and its parameters in the order of the kernel's struct.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, bail};

/// What a launch can fill a field with. All fields are as large as they are aligned, so a struct of them has the
/// same layout here as in C++.
enum Field<'a> {
    Tensor(&'a Tensor),
    Null,
    Output,
    Int(usize),
    Float(f32),
    Double(f64),
}

/// A launch of `kernel`, which is in the file `module`.cu.
pub struct Launch<'a> {
    pub module: &'static str,
    pub kernel: String,
    /// Blocks, x to z.
    pub grid: [usize; 3],
    /// Threads of a block, x to z.
    pub block: [usize; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    fields: Vec<Field<'a>>,
}

/// Blocks along y and z are at most this many; along x there is room for 2³¹ − 1.
const MOST_BLOCKS: usize = 65535;
/// Bytes of shared memory that a block can have on every GPU since Ampere.
const MOST_SHARED: usize = 99 << 10;

impl<'a> Launch<'a> {
    pub fn new(module: &'static str, kernel: impl Into<String>) -> Self {
        let kernel = kernel.into();
        Self { module, kernel, grid: [1; 3], block: [1; 3], shared: 0, fields: vec![] }
    }

    /// The version of `kernel` for elements like those of `x`.
    pub fn of_dtype(module: &'static str, kernel: &str, x: &Tensor) -> Self {
        Self::new(module, format!("{kernel}_{}", x.dtype().as_str()))
    }

    pub fn grid(mut self, grid: [usize; 3]) -> Self {
        self.grid = grid;
        self
    }

    pub fn block(mut self, block: [usize; 3]) -> Self {
        self.block = block;
        self
    }

    pub fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    /// A pointer to the elements of a contiguous tensor.
    pub fn tensor(mut self, x: &'a Tensor) -> Self {
        self.fields.push(Field::Tensor(x));
        self
    }

    /// The same, or null.
    pub fn optional(mut self, x: Option<&'a Tensor>) -> Self {
        self.fields.push(x.map_or(Field::Null, Field::Tensor));
        self
    }

    /// The pointer to the result.
    pub fn output(mut self) -> Self {
        self.fields.push(Field::Output);
        self
    }

    pub fn ints(mut self, values: &[usize]) -> Self {
        self.fields.extend(values.iter().map(|&n| Field::Int(n)));
        self
    }

    pub fn float(mut self, value: f32) -> Self {
        self.fields.push(Field::Float(value));
        self
    }

    pub fn doubles(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        self.fields.extend(values.into_iter().map(Field::Double));
        self
    }

    /// Runs the kernel.
    ///
    /// # Safety
    /// The fields must be those of the kernel's struct, and with this geometry it must write all of a tensor of
    /// `shape` and `dtype` and touch nothing beyond its tensors.
    pub unsafe fn run(self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let Self { kernel, grid: [x, y, z], block, .. } = &self;
        let blocks = i32::try_from(*x).is_ok() && *y <= MOST_BLOCKS && *z <= MOST_BLOCKS;
        if !blocks || x * y * z * block.iter().product::<usize>() == 0 {
            bail!("{kernel}: cannot launch {:?} blocks of {block:?} threads", self.grid);
        }
        if self.shared > MOST_SHARED {
            bail!("{kernel}: {} bytes of shared memory are more than a block can have", self.shared);
        }
        // SAFETY: the kernel writes all of it, the caller says.
        let out = unsafe { Tensor::empty(shape, dtype, device)? };
        out.inplace_op1(&self)?;
        Ok(out)
    }

    /// The tensors among the fields, in order.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &'a Tensor> {
        self.fields.iter().filter_map(|field| match field {
            Field::Tensor(x) => Some(*x),
            _ => None,
        })
    }

    /// The kernel's struct, in eighths of its bytes. `inputs`: where the tensors' elements are, in order; `output`:
    /// where the result's are.
    pub(super) fn params(&self, inputs: &[u64], output: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![];
        let mut inputs = inputs.iter();
        for field in &self.fields {
            match field {
                Field::Tensor(_) => match inputs.next() {
                    Some(address) => push(&mut bytes, address.to_ne_bytes()),
                    None => bail!("{}: a tensor has no address", self.kernel),
                },
                Field::Null => push(&mut bytes, 0u64.to_ne_bytes()),
                Field::Output => push(&mut bytes, output.to_ne_bytes()),
                Field::Int(n) => match i32::try_from(*n) {
                    Ok(n) => push(&mut bytes, n.to_ne_bytes()),
                    Err(_) => bail!("{}: a size of {n} is too large for the kernel", self.kernel),
                },
                Field::Float(x) => push(&mut bytes, x.to_ne_bytes()),
                Field::Double(x) => push(&mut bytes, x.to_ne_bytes()),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        Ok(bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_ne_bytes(*eight)).collect())
    }
}

/// Appends a field where its alignment, which is its size, allows.
fn push<const N: usize>(bytes: &mut Vec<u8>, field: [u8; N]) {
    bytes.resize(bytes.len().next_multiple_of(N), 0);
    bytes.extend(field);
}

impl InplaceOp1 for Launch<'_> {
    fn name(&self) -> &'static str {
        self.module
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, _: &Layout) -> Result<()> {
        super::emulator::run(self, out)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, out: &mut candle_core::CudaStorage, _: &Layout) -> Result<()> {
        super::device::run(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_as_in_a_struct_of_c() -> Result<()> {
        let x = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
        let launch = Launch::new("module", "kernel").ints(&[1]).tensor(&x).output().ints(&[2]);
        let launch = launch.doubles([0.5]).float(1.0).optional(None).ints(&[3]);
        let half = 0.5f64.to_bits();
        let one = u64::from(1f32.to_bits());
        assert_eq!(launch.params(&[7], 8)?, [1, 7, 8, 2, half, one, 0, 3]);
        assert_eq!(launch.tensors().count(), 1);
        assert!(launch.params(&[], 8).is_err());
        let large = Launch::new("module", "kernel").ints(&[1 << 31]);
        assert!(large.params(&[], 8).is_err_and(|e| e.to_string().contains("too large")));
        // SAFETY: it is refused before it runs.
        let nothing = unsafe { large.grid([0, 1, 1]).run(3, DType::F32, &Device::Cpu) };
        assert!(nothing.is_err());
        Ok(())
    }
}
