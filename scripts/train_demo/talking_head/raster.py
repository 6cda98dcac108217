"""Rasterisation and shading, compiled with Numba."""

import numpy as np
from numba import njit

BACKGROUND, SKIN, EYE, UPPER_TEETH, LOWER_TEETH, TONGUE, CAVITY, HAIR, BACK_HAIR, EAR, NECK, CLOTH = range(12)


@njit(cache=True, fastmath=True)
def grid_normals(points, seam):
    """(rows, columns, 3) → outward unit normals. Differences are not taken across rows `seam` and `seam` + 1."""
    rows, columns, _ = points.shape
    normals = np.empty_like(points)
    for r in range(rows):
        above = r if r == 0 or r == seam + 1 else r - 1
        below = r if r == rows - 1 or r == seam else r + 1
        for c in range(columns):
            left, right = max(c - 1, 0), min(c + 1, columns - 1)
            ax = points[below, c, 0] - points[above, c, 0]
            ay = points[below, c, 1] - points[above, c, 1]
            az = points[below, c, 2] - points[above, c, 2]
            bx = points[r, right, 0] - points[r, left, 0]
            by = points[r, right, 1] - points[r, left, 1]
            bz = points[r, right, 2] - points[r, left, 2]
            x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            length = np.sqrt(x * x + y * y + z * z) + 1e-12
            normals[r, c, 0], normals[r, c, 1], normals[r, c, 2] = x / length, y / length, z / length
    return normals


@njit(cache=True, fastmath=True)
def lid_edges(u, eye):
    """Heights of upper and lower lid relative to the eye's centre at `u`, from -1 to 1 between the corners."""
    arch = max(0.0, 1.0 - u * u)
    tilt = 0.006 * u
    return eye[3] * arch**0.75 + tilt, -eye[4] * arch + tilt


@njit(cache=True, fastmath=True)
def strands(b):
    """Irregular ripple in -1..1 over the strand coordinate `b`."""
    warped = b + 0.35 * np.sin(1.7 * b + 0.6) + 0.13 * np.sin(5.3 * b)
    return 0.45 * np.sin(11.0 * warped) + 0.33 * np.sin(29.0 * warped + 4.0 * np.sin(2.3 * b)) + 0.22 * np.sin(71.0 * warped)


@njit(cache=True, fastmath=True)
def is_cut_out(kind, a, b, eye):
    """Whether texture coordinates (a, b) are in a hole: between the lids, or outside the hairline."""
    if kind == SKIN:
        u = (abs(a) - eye[0]) / eye[2]
        if u > -1.0 and u < 1.0:
            upper, lower = lid_edges(u, eye)
            return b - eye[1] < upper and b - eye[1] > lower
        return False
    if kind == HAIR:
        return a + 0.05 * strands(1.7 * b) + 0.03 * np.sin(2.1 * b) < 0.0
    return False


@njit(cache=True, fastmath=True)
def draw_grid(screen, normals, paint, hole_row, holes, kind, eye, depth, kinds, normal_buffer, paint_buffer):
    """Rasterises one grid. `screen`: (rows, columns, 3), pixel position and depth. Cells of row `hole_row` in `holes` are skipped."""
    rows, columns, _ = screen.shape
    height, width = depth.shape
    corner = np.empty((3, 2), np.int64)
    for r in range(rows - 1):
        for c in range(columns - 1):
            if r == hole_row and holes[c]:
                continue
            for half in range(2):
                corner[0, 0], corner[0, 1] = r, c
                if half == 0:
                    corner[1, 0], corner[1, 1], corner[2, 0], corner[2, 1] = r + 1, c, r + 1, c + 1
                else:
                    corner[1, 0], corner[1, 1], corner[2, 0], corner[2, 1] = r + 1, c + 1, r, c + 1
                p, q, s = screen[corner[0, 0], corner[0, 1]], screen[corner[1, 0], corner[1, 1]], screen[corner[2, 0], corner[2, 1]]
                area = (q[0] - p[0]) * (s[1] - p[1]) - (q[1] - p[1]) * (s[0] - p[0])
                # Back-facing (the y axis of the screen points down) or degenerate.
                if area > -1e-6:
                    continue
                left = max(int(np.ceil(min(p[0], q[0], s[0]) - 0.5)), 0)
                right = min(int(np.floor(max(p[0], q[0], s[0]) - 0.5)), width - 1)
                top = max(int(np.ceil(min(p[1], q[1], s[1]) - 0.5)), 0)
                bottom = min(int(np.floor(max(p[1], q[1], s[1]) - 0.5)), height - 1)
                if left > right or top > bottom:
                    continue
                inverse = 1.0 / area
                for y in range(top, bottom + 1):
                    py = y + 0.5
                    for x in range(left, right + 1):
                        px = x + 0.5
                        wq = ((px - p[0]) * (s[1] - p[1]) - (py - p[1]) * (s[0] - p[0])) * inverse
                        ws = ((q[0] - p[0]) * (py - p[1]) - (q[1] - p[1]) * (px - p[0])) * inverse
                        wp = 1.0 - wq - ws
                        if wq < -1e-5 or ws < -1e-5 or wp < -1e-5:
                            continue
                        z = wp * p[2] + wq * q[2] + ws * s[2]
                        if z <= depth[y, x]:
                            continue
                        a = 0.0
                        b = 0.0
                        for i in range(3):
                            w = wp if i == 0 else (wq if i == 1 else ws)
                            a += w * paint[corner[i, 0], corner[i, 1], 0]
                            b += w * paint[corner[i, 0], corner[i, 1], 1]
                        if is_cut_out(kind, a, b, eye):
                            continue
                        depth[y, x] = z
                        kinds[y, x] = kind
                        paint_buffer[y, x, 0], paint_buffer[y, x, 1] = a, b
                        for k in range(3):
                            normal_buffer[y, x, k] = (
                                wp * normals[corner[0, 0], corner[0, 1], k]
                                + wq * normals[corner[1, 0], corner[1, 1], k]
                                + ws * normals[corner[2, 0], corner[2, 1], k]
                            )


@njit(cache=True, fastmath=True)
def sample(texture, x, y, extent, out):
    """Bilinear texture lookup at coordinates of the rest pose."""
    size = texture.shape[0]
    u = min(max((x + extent) / (2 * extent) * (size - 1), 0.0), size - 1.001)
    v = min(max((extent - y) / (2 * extent) * (size - 1), 0.0), size - 1.001)
    i, j = int(v), int(u)
    fv, fu = v - i, u - j
    for k in range(texture.shape[2]):
        above = texture[i, j, k] + fu * (texture[i, j + 1, k] - texture[i, j, k])
        below = texture[i + 1, j, k] + fu * (texture[i + 1, j + 1, k] - texture[i + 1, j, k])
        out[k] = above + fv * (below - above)


@njit(cache=True, fastmath=True)
def step(low, high, x):
    # Zero width occurs for a closed lid and in the middle of a tooth.
    if low == high:
        return 1.0 if x >= low else 0.0
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, fastmath=True)
def shade(kinds, depth, normals, paint, texture, extent, eye, gaze, materials, light, light_colour, levels, background, out):
    """Shades all pixels, in linear colours. `materials`: (8, 3), colours of skin, iris, hair, cloth, teeth, tongue, gum, cavity.
    `levels`: ambient light, opening of the mouth, depth of the lips."""
    height, width = kinds.shape
    albedo = np.empty(4)
    length = np.sqrt(light[0] ** 2 + light[1] ** 2 + (light[2] + 1.0) ** 2)
    hx, hy, hz = light[0] / length, light[1] / length, (light[2] + 1.0) / length
    for y in range(height):
        for x in range(width):
            kind = kinds[y, x]
            if kind == BACKGROUND:
                for k in range(3):
                    out[y, x, k] = background[y, x, k]
                continue
            a, b = paint[y, x, 0], paint[y, x, 1]
            nx, ny, nz = normals[y, x, 0], normals[y, x, 1], normals[y, x, 2]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / length, ny / length, nz / length
            wrap, gloss, shine, occlusion = 0.25, 18.0, 0.0, 1.0
            if kind == SKIN:
                sample(texture, a, b, extent, albedo)
                shine = albedo[3]
                u = (abs(a) - eye[0]) / eye[2]
                if abs(u) < 1.12:
                    upper, lower = lid_edges(min(max(u, -1.0), 1.0), eye)
                    over = b - eye[1] - upper
                    under = lower - (b - eye[1])
                    lash = step(0.020 + 0.008 * max(u, 0.0), 0.003, abs(over)) * step(1.12, 0.95, abs(u)) * 0.92
                    rim = step(0.016, 0.0, abs(under)) * step(1.05, 0.8, abs(u)) * 0.45
                    for k in range(3):
                        albedo[k] += lash * (0.012 - albedo[k])
                        albedo[k] += rim * (0.35 * albedo[k] - albedo[k])
                    shine *= 1.0 - lash
            elif kind == EYE:
                du, dv = a - gaze[0], b - gaze[1]
                radius = np.sqrt(du * du + dv * dv)
                for k in range(3):
                    white = 0.72 - 0.05 * k * min(abs(a) * 2.0, 1.0)
                    iris = materials[1, k] * (0.55 + 1.2 * step(0.15, 0.33, radius)) * (0.85 + 0.15 * np.sin(23.0 * np.arctan2(dv, du)))
                    colour = iris + (white - iris) * step(0.36, 0.40, radius)
                    colour *= 1.0 - 0.75 * step(0.30, 0.36, radius) * step(0.42, 0.37, radius)
                    albedo[k] = colour * step(0.145, 0.175, radius) + 0.006
                # Shadow of the upper lid.
                occlusion = 0.45 + 0.55 * step(eye[3] * 1.02, eye[3] * 0.25, b * 0.15)
                shine, gloss = 0.9, 160.0
            elif kind == UPPER_TEETH or kind == LOWER_TEETH:
                gap = a - np.floor(a)
                seam = min(gap, 1.0 - gap)
                edge = 0.93 + 0.07 * np.cos(2.0 * np.pi * gap) if kind == UPPER_TEETH else 0.95
                gum = step(0.36, 0.30, b + 0.05 * np.sin(2.0 * np.pi * gap))
                for k in range(3):
                    tooth = materials[4, k] * (1.0 - 0.45 * step(0.10, 0.0, seam)) * (1.0 - 0.25 * step(edge, 1.0, b))
                    albedo[k] = tooth + gum * (materials[6, k] - tooth)
                occlusion = 0.30 + 0.55 * levels[1]
                occlusion *= step(-0.34, -0.02, depth[y, x] - levels[2])
                shine, gloss = 0.12, 30.0
            elif kind == TONGUE:
                groove = 1.0 - 0.25 * step(0.10, 0.0, abs(a))
                for k in range(3):
                    albedo[k] = materials[5, k] * groove
                occlusion = (0.25 + 0.45 * levels[1]) * (0.25 + 0.75 * step(-0.22, -0.03, depth[y, x] - levels[2]))
                shine, gloss = 0.10, 20.0
            elif kind == CAVITY:
                for k in range(3):
                    albedo[k] = materials[7, k]
                occlusion = 0.30
            elif kind == HAIR or kind == BACK_HAIR:
                strand = 0.5 + 0.5 * strands(b + 0.25 * np.sin(2.0 * a))
                for k in range(3):
                    albedo[k] = materials[2, k] * (0.45 + 0.85 * strand)
                shine, gloss = 0.10 + 0.25 * strand, 9.0
                if kind == HAIR:
                    occlusion = 0.45 + 0.55 * step(0.0, 0.12, a)
                else:
                    occlusion = 0.50
            elif kind == CLOTH:
                weave = 1.0 - 0.25 * step(0.10, 0.0, abs(np.sqrt(a * a * 1.2 + (b - 0.95) ** 2) - 0.52))
                for k in range(3):
                    albedo[k] = materials[3, k] * weave
                wrap = 0.1
            else:
                for k in range(3):
                    albedo[k] = materials[0, k]
                shine = 0.08
                if kind == NECK:
                    # Shadow of the chin.
                    occlusion = 0.42 + 0.58 * step(0.10, 0.75, b)
                else:
                    occlusion = 0.80 - 0.30 * step(0.5, 0.0, np.sqrt(a * a + b * b))
                    albedo[1] *= 0.88
                    albedo[2] *= 0.86

            facing = nx * light[0] + ny * light[1] + nz * light[2]
            ambient = levels[0] * (0.72 + 0.28 * ny) * (0.80 + 0.20 * nz)
            half = max(nx * hx + ny * hy + nz * hz, 0.0)
            grazing = max(1.0 - max(nz, 0.0), 0.0)
            glint = shine * (half**gloss + 0.35 * grazing**4)
            for k in range(3):
                # Approximates subsurface scattering, which is strongest for red.
                soft = wrap * (1.35 - 0.35 * k) if kind == SKIN or kind >= EAR else wrap
                diffuse = max((facing + soft) / (1.0 + soft), 0.0)
                value = albedo[k] * (ambient + 0.92 * diffuse * light_colour[k]) * occlusion + glint * light_colour[k] * occlusion
                out[y, x, k] = value


@njit(cache=True, fastmath=True)
def resolve(linear, table, out):
    """Averages 2 × 2 linear samples and converts to sRGB u8."""
    height, width, _ = out.shape
    last = table.shape[0] - 1
    for y in range(height):
        for x in range(width):
            for k in range(3):
                mean = 0.25 * (
                    linear[2 * y, 2 * x, k] + linear[2 * y + 1, 2 * x, k] + linear[2 * y, 2 * x + 1, k] + linear[2 * y + 1, 2 * x + 1, k]
                )
                out[y, x, k] = table[int(min(max(mean, 0.0), 1.0) * last)]
