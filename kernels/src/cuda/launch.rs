//! A kernel launch: grid, block and shared memory, and the parameters in the order of the kernel's struct.

use std::fmt;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, bail};

/// A field of a kernel's parameter struct. The alignment of every field equals its size, so the layout
/// computed here equals the layout of the C++ struct.
enum Field<'a> {
    Tensor(&'a Tensor),
    Null,
    Output,
    Int(usize),
    Float(f32),
    Double(f64),
}

/// Name of a kernel in parts: base name, template size and dtype. The full name is only formatted when the
/// kernel is loaded and for error messages, so that a launch allocates no string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The source file without `.cu`.
    pub module: &'static str,
    name: &'static str,
    size: Size,
    dtype: Option<DType>,
}

/// Template arguments of a kernel other than its dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Size {
    /// No size argument.
    Any,
    /// Maximum size.
    Max(usize),
    /// Tile of (rows, columns).
    Tile(usize, usize),
}

/// The full name: `name_f32`, `name_64_f32` or `name_64x128_f32`.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.size {
            Size::Any => {}
            Size::Max(size) => write!(f, "_{size}")?,
            Size::Tile(rows, columns) => write!(f, "_{rows}x{columns}")?,
        }
        self.dtype.map_or(Ok(()), |dtype| write!(f, "_{}", dtype.as_str()))
    }
}

/// Maximum size of a kernel's parameter struct, in bytes.
const MAX_PARAMS: usize = 128;

/// Bytes of a kernel's parameter struct, followed by zeros.
#[repr(C, align(8))]
pub struct Params {
    bytes: [u8; MAX_PARAMS],
    len: usize,
}

impl Params {
    const EMPTY: Self = Self { bytes: [0; MAX_PARAMS], len: 0 };

    /// Appends a field at the next offset that is a multiple of its size, its alignment. False if it does not
    /// fit.
    fn push<const N: usize>(&mut self, field: [u8; N]) -> bool {
        let at = self.len.next_multiple_of(N);
        let Some(to) = self.bytes.get_mut(at..at + N) else { return false };
        to.copy_from_slice(&field);
        self.len = at + N;
        true
    }

    /// Bytes of the struct, whose size is a multiple of 8, the alignment of its pointers. All [`MAX_PARAMS`]
    /// bytes from its start are readable: the driver gets no length and reads as many bytes as the kernel's
    /// struct has.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.next_multiple_of(8)]
    }
}

/// Builder of a kernel launch; [`Launch::run`] executes it.
pub struct Launch<'a> {
    pub kernel: Kernel,
    /// Blocks along x, y and z.
    pub grid: [usize; 3],
    /// Threads of a block along x, y and z.
    pub block: [usize; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    fields: Vec<Field<'a>>,
}

/// Grid and block of a launch.
pub struct LaunchDims {
    /// Blocks along x, y and z.
    pub grid: [usize; 3],
    /// Threads of a block along x, y and z.
    pub block: [usize; 3],
}

/// CUDA's maximum number of blocks along y and along z. Along x the maximum is 2³¹ − 1.
const MAX_GRID_YZ: usize = 65535;
/// Shared memory, in bytes, that a block can have on every GPU since Ampere.
const MAX_SHARED: usize = 99 << 10;
/// Number of fields of the largest parameter struct: the capacity of [`Launch::fields`].
const MAX_FIELDS: usize = 20;

impl<'a> Launch<'a> {
    /// Launch of the kernel `name` in the file `module`.cu.
    pub fn new(module: &'static str, name: &'static str) -> Self {
        let kernel = Kernel { module, name, size: Size::Any, dtype: None };
        Self { kernel, grid: [1; 3], block: [1; 3], shared: 0, fields: Vec::with_capacity(MAX_FIELDS) }
    }

    /// Launch of the kernel's instance for the dtype of `x`.
    pub fn with_dtype_of(module: &'static str, name: &'static str, x: &Tensor) -> Self {
        Self::new(module, name).dtype(x.dtype())
    }

    /// Selects the kernel's instance for `dtype`.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.kernel.dtype = Some(dtype);
        self
    }

    /// Selects the kernel's instance for sizes up to `size`.
    pub fn max_size(mut self, size: usize) -> Self {
        self.kernel.size = Size::Max(size);
        self
    }

    /// Selects the kernel's instance for tiles of `rows` × `columns`.
    pub fn tile(mut self, rows: usize, columns: usize) -> Self {
        self.kernel.size = Size::Tile(rows, columns);
        self
    }

    pub fn dims(self, dims: LaunchDims) -> Self {
        self.grid(dims.grid).block(dims.block)
    }

    pub fn grid(mut self, grid: [usize; 3]) -> Self {
        self.grid = grid;
        self
    }

    pub fn block(mut self, block: [usize; 3]) -> Self {
        self.block = block;
        self
    }

    /// Sets the size of the dynamic shared memory.
    pub fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes;
        self
    }

    /// Appends a pointer to the elements of a contiguous tensor.
    pub fn tensor(mut self, x: &'a Tensor) -> Self {
        self.fields.push(Field::Tensor(x));
        self
    }

    /// Appends a pointer to the elements of a contiguous tensor, or a null pointer.
    pub fn optional(mut self, x: Option<&'a Tensor>) -> Self {
        self.fields.push(x.map_or(Field::Null, Field::Tensor));
        self
    }

    /// Appends the pointer to the output.
    pub fn output(mut self) -> Self {
        self.fields.push(Field::Output);
        self
    }

    /// Appends `int` fields.
    pub fn ints(mut self, values: &[usize]) -> Self {
        self.fields.extend(values.iter().map(|&n| Field::Int(n)));
        self
    }

    /// Appends a `float` field.
    pub fn float(mut self, value: f32) -> Self {
        self.fields.push(Field::Float(value));
        self
    }

    /// Appends `double` fields.
    pub fn doubles(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        self.fields.extend(values.into_iter().map(Field::Double));
        self
    }

    /// Allocates an output of `shape` and `dtype` on `device` and runs the kernel, which fills it.
    ///
    /// # Safety
    /// The fields must match the kernel's parameter struct. With this grid and block the kernel must write
    /// every element of the output, and must access no memory outside its tensors.
    pub unsafe fn run(self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let Self { kernel, grid: [x, y, z], block, .. } = &self;
        let grid_fits = i32::try_from(*x).is_ok() && *y <= MAX_GRID_YZ && *z <= MAX_GRID_YZ;
        if !grid_fits || x * y * z * block.iter().product::<usize>() == 0 {
            bail!("{kernel}: cannot launch a grid of {:?} blocks of {block:?} threads", self.grid);
        }
        if self.shared > MAX_SHARED {
            bail!("{kernel}: expected at most {MAX_SHARED} bytes of shared memory, got {}", self.shared);
        }
        // SAFETY: the caller guarantees that the kernel writes every element.
        let out = unsafe { Tensor::empty(shape, dtype, device)? };
        out.inplace_op1(&self)?;
        Ok(out)
    }

    /// The tensor fields, in order.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &'a Tensor> {
        self.fields.iter().filter_map(|field| match field {
            Field::Tensor(x) => Some(*x),
            _ => None,
        })
    }

    /// Parameter struct with the addresses of the input tensors, in field order, and of the output.
    pub(super) fn params(&self, inputs: &[u64], output: u64) -> Result<Params> {
        let mut params = Params::EMPTY;
        let mut inputs = inputs.iter();
        for field in &self.fields {
            let has_room = match field {
                Field::Tensor(_) => match inputs.next() {
                    Some(address) => params.push(address.to_ne_bytes()),
                    None => bail!("{}: got fewer addresses than tensors", self.kernel),
                },
                Field::Null => params.push(0u64.to_ne_bytes()),
                Field::Output => params.push(output.to_ne_bytes()),
                Field::Int(n) => match i32::try_from(*n) {
                    Ok(n) => params.push(n.to_ne_bytes()),
                    Err(_) => bail!("{}: size {n} is too large for a 32-bit int", self.kernel),
                },
                Field::Float(x) => params.push(x.to_ne_bytes()),
                Field::Double(x) => params.push(x.to_ne_bytes()),
            };
            if !has_room {
                bail!("{}: parameters have more than {MAX_PARAMS} bytes", self.kernel);
            }
        }
        Ok(params)
    }
}

impl InplaceOp1 for Launch<'_> {
    fn name(&self) -> &'static str {
        self.kernel.name
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
    fn fields_have_the_layout_of_a_c_struct() -> Result<()> {
        let x = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
        let launch = Launch::new("module", "kernel").ints(&[1]).tensor(&x).output().ints(&[2]);
        let launch = launch.doubles([0.5]).float(1.0).optional(None).ints(&[3]);
        let half = 0.5f64.to_bits();
        let one = u64::from(1f32.to_bits());
        let params = launch.params(&[7], 8)?;
        let eighths = params.bytes().as_chunks::<8>().0.iter().map(|eight| u64::from_ne_bytes(*eight));
        assert_eq!(eighths.collect::<Vec<_>>(), [1, 7, 8, 2, half, one, 0, 3]);
        assert_eq!(launch.tensors().count(), 1);
        assert!(launch.params(&[], 8).is_err());
        let large = Launch::new("module", "kernel").ints(&[1 << 31]);
        assert!(large.params(&[], 8).is_err_and(|e| e.to_string().contains("too large")));
        let many = Launch::new("module", "kernel").ints(&[0; MAX_PARAMS / 4]);
        assert!(many.params(&[], 8).is_ok_and(|params| params.bytes().len() == MAX_PARAMS));
        assert!(many.ints(&[0]).params(&[], 8).is_err_and(|e| e.to_string().contains("more than 128")));
        // SAFETY: `run` rejects the empty grid before it launches the kernel.
        let nothing = unsafe { large.grid([0, 1, 1]).run(3, DType::F32, &Device::Cpu) };
        assert!(nothing.is_err());
        Ok(())
    }

    #[test]
    fn kernel_names_equal_those_in_the_cuda_sources() -> Result<()> {
        let x = Tensor::zeros(3, DType::BF16, &Device::Cpu)?;
        let name = |launch: Launch| launch.kernel.to_string();
        assert_eq!(name(Launch::new("masks", "erode")), "erode");
        assert_eq!(name(Launch::with_dtype_of("layout", "join", &x)), "join_bf16");
        assert_eq!(
            name(Launch::new("attention", "attention").max_size(64).dtype(DType::F32)),
            "attention_64_f32"
        );
        assert_eq!(
            name(Launch::with_dtype_of("implicit_gemm", "implicit_gemm", &x).tile(128, 64)),
            "implicit_gemm_128x64_bf16"
        );
        Ok(())
    }
}
