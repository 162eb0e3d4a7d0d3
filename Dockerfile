# The page in a container. CPU: docker build -t style-studio .
# NVIDIA: docker build -t style-studio --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# A volume takes its owner from the folder that it lies on
RUN useradd --create-home --uid 1000 studio \
    && install --directory --owner studio --group studio \
        /workspace /home/studio/.cache /home/studio/.cache/huggingface

WORKDIR /app

# torch alone first: it is most of what is fetched, and changes least
COPY constraints.txt ./
RUN pip install --index-url "$TORCH_INDEX" torch -c constraints.txt

COPY pyproject.toml README.md LICENSE ./
COPY training training
COPY studio studio
COPY sample_data sample_data
RUN pip install -c constraints.txt .

# By number, so that a host can tell it is not root
USER 1000
WORKDIR /workspace
VOLUME ["/workspace"]
EXPOSE 7860

# Others reach the page, so it asks for the password in STYLE_STUDIO_PASSWORD and refuses to open
# without one
CMD ["style-studio", "--host", "0.0.0.0", "--workspace", "/workspace"]

HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 7860), 5).close()"]
