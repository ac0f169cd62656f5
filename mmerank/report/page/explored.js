const send = file => {
  if (!file) return;
  if (file.size > MAX_BYTES) { alert(`The file has ${(file.size / 1e6).toFixed(1)} MB; at most ${MAX_BYTES / 1e6} are taken.`); return; }
  const reader = new FileReader();
  reader.onload = () => { props.value = reader.result; trigger('upload'); };
  reader.readAsDataURL(file);
};
element.addEventListener('change', event => { send(event.target.files[0]); event.target.value = ''; });
element.addEventListener('dragover', event => event.preventDefault());
element.addEventListener('drop', event => { event.preventDefault(); send(event.dataTransfer.files[0]); });
