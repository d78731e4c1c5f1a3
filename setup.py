"""Packaging of cmdcm: the repository's root is the package `cmdcm`."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STAGES = ["core", "datasets", "features", "model", "export", "serving", "jobs"]

# Every folder of these stages that holds an __init__.py is a sub-package; tests and benchmarks
# look in from outside and are not installed.
ROOT = Path(__file__).resolve().parent
FOLDERS = [path.parent for stage in STAGES for path in (ROOT / stage).rglob("__init__.py")]
PACKAGES = ["cmdcm", *sorted(".".join(("cmdcm", *f.relative_to(ROOT).parts)) for f in FOLDERS)]

# PySpark calls Arrow functions only where pandas is installed, and warns of pandas 3.
SPARK = ["pyspark>=4.1,<5", "pandas>=2.2,<3"]

# The skinny package leaves out the server and what it needs; these two are its SQLite store.
MLFLOW = ["mlflow-skinny>=3.10,<4", "sqlalchemy>=2.1,<3", "alembic>=1.14,<2", "pandas>=2.2,<3"]

TUNE = ["optuna>=5,<6", "sqlalchemy>=2.1,<3"]


class BuildPy(build_py):
    """Leaves this file out of the wheel: it lies in the folder of the package `cmdcm`."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Returns (package, module, file) of every module but `setup`."""
        modules = super().find_package_modules(package, package_dir)
        return [entry for entry in modules if entry[1] != "setup"]


setup(
    name="cmdcm",
    version="0.1.0",
    description="Production ranking model for e-commerce pre-promotion periods (CM-DCM)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    package_dir={"cmdcm": "."},
    packages=PACKAGES,
    cmdclass={"build_py": BuildPy},
    package_data={
        "cmdcm": ["py.typed"],
        "cmdcm.core": ["presets/*.toml"],
        "cmdcm.export": ["templates/*.j2"],
        "cmdcm.jobs": ["templates/*.j2"],
        "cmdcm.jobs.bench": ["plans/*.toml"],
        "cmdcm.jobs.tune": ["spaces/*.toml"],
    },
    install_requires=[
        # TensorFlow, its Keras 2 and the serving stubs stay on one minor version.
        "tensorflow>=2.21,<2.22",
        "tf-keras>=2.21,<2.22",
        "tensorflow-serving-api>=2.21,<2.22",
        "tensorflow-recommenders>=0.7.7,<0.8",
        "tensorflow-metadata>=1.21,<2",
        "tensorboard>=2.20,<3",
        "absl-py>=2.1,<3",
        "pyarrow>=18,<27",
        "polars>=1.30,<3",
        "numba>=0.61,<1",
        "numpy>=1.26,<3",
        "scipy>=1.11,<2",
        "pydantic>=2.9,<3",
        "fsspec>=2024.6",
        "universal-pathlib>=0.2.6,<1",
        "grpcio>=1.70,<2",
        "grpcio-health-checking>=1.70,<2",
        "starlette>=1,<2",
        "uvicorn>=0.40,<1",
        "prometheus-client>=0.22,<1",
        "matplotlib>=3.9,<4",
        "jinja2>=3.1,<4",
        "psutil>=6,<8",
        "rich>=13.7,<16",
        "tzdata>=2024.1",
    ],
    extras_require={
        # Compresses shards three times as fast (features.gzip).
        "isal": ["isal>=1.7,<2"],
        "mlflow": MLFLOW,
        "spark": SPARK,
        "tune": TUNE,
        "dev": [
            *MLFLOW,
            *SPARK,
            *TUNE,
            "cryptography>=44,<51",
            "duckdb>=1.3,<3",
            "hypothesis>=6.100,<7",
            "kubernetes-validate>=1.34,<2",
            "mypy>=1.14,<3",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "pyyaml>=6,<7",
            "ruff>=0.9,<1",
            "setuptools>=69",
            "types-psutil>=6,<8",
            "types-pyyaml>=6,<7",
        ],
    },
    entry_points={"console_scripts": ["cmdcm=cmdcm.jobs.main:run"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
