"""Packaging of ctdiff."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGES = ["backbones", "diffusion_core", "discrete_diffusion", "continuous_diffusion", "configs", "ctdiff"]

ATTRIBUTION = """
## Licences

The code is under the MIT licence. The file `ctdiff/data/mnist-10k.npz` holds 10,000 digits of the MNIST database by
Yann LeCun, Corinna Cortes and Christopher J. C. Burges and is under the licence
[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/); `ctdiff/data/mnist-10k.LICENSE.txt` lists the changes.
The models in `ctdiff/models` were trained on these digits and have the same licence.
"""

setup(
    name="ctdiff",
    version="0.1.0",
    description="Discrete and continuous diffusion in continuous time: two engines over the same backbones",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") + ATTRIBUTION,
    long_description_content_type="text/markdown",
    author="The ctdiff authors",
    license_expression="MIT AND CC-BY-SA-3.0",
    license_files=["LICENSE", "ctdiff/data/mnist-10k.LICENSE.txt"],
    python_requires=">=3.11",
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={
        **{name: ["py.typed"] for name in PACKAGES},
        "ctdiff.data": ["mnist-10k.npz", "mnist-10k.LICENSE.txt"],
        "ctdiff.metrics": ["weights/mnist_cnn.safetensors"],
        "ctdiff.comparison": ["comparison.html"],
        "ctdiff.models": ["*/card.yaml", "*/classes.json", "*/config.json", "*/grid.png", "*/model.safetensors"],
    },
    zip_safe=False,
    entry_points={"console_scripts": ["ctdiff = ctdiff.__main__:main"]},
    # Lower bounds only: the oldest release that has all functions that the library calls, and wheels for Python 3.11 to 3.13.
    install_requires=[
        "torch>=2.7",
        "torchvision>=0.22",
        "ml-collections>=1.0",
        "absl-py>=2.0",
        "numpy>=1.26; python_version < '3.13'",
        "numpy>=2.1; python_version >= '3.13'",
        "safetensors>=0.4.4",
        "einops>=0.7",
        "pillow>=10.4",
        "tqdm>=4.66",
        "matplotlib>=3.9.2",
        "jinja2>=3.1",
        "docstring_parser>=0.16",
        "pyyaml>=6.0.2",
        "tabulate>=0.9",
    ],
    extras_require={
        # The Inception network of standard FID. Its weights are a separate file.
        "evaluation": ["torch-fidelity>=0.3"],
        # Models on the Hugging Face Hub.
        "hub": ["huggingface_hub>=0.23"],
        # Reads the .mat files of SVHN.
        "matlab": ["scipy>=1.14.1"],
        # setuptools builds the wheel that tests/test_wheel.py installs.
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "hypothesis>=6.98",
            "ruff>=0.9",
            "mypy>=1.14",
            "setuptools>=77.0.1",
            "scipy>=1.14.1",
            "diffusers>=0.32",
            "torch-fidelity>=0.3",
        ],
        # Libraries that the benchmarks compare with.
        "benchmarks": ["timm>=1.0", "flow_matching>=1.0.10", "diffusers>=0.32"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
