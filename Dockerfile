# vlarig with the embedded suite's simulator: docker build -t vlarig . && docker run --rm vlarig sweep tabletop --policy expert
# With others: --build-arg RUNTIMES="tabletop libero simpler"; their data files are mounted, see compose.yml. PyTorch is the build for CPUs.
FROM python:3.11-bookworm
ARG RUNTIMES=tabletop
ENV VLARIG_HOME=/var/lib/vlarig VLARIG_ASSETS=/assets PATH=/opt/vlarig/.venv/bin:$PATH
WORKDIR /opt/vlarig
COPY . .
RUN python3 go.py setup $RUNTIMES
RUN vlarig doctor
WORKDIR /srv
ENTRYPOINT ["vlarig"]
CMD ["doctor"]
